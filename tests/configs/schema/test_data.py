from configs.schema.data import DATA_FILE, HUB_ID
from jobs.data import source


def test_what_a_source_is_stands_in_one_place():
    assert (source.DATA_FILE, source.HUB_ID) == (DATA_FILE, HUB_ID)


def test_a_hub_id_has_an_owner_and_a_revision_where_they_are_given():
    asked = {
        text: HUB_ID.match(text) for text in ("owner/name@v1.0", "owner/name", "bert-base-uncased", "a/b/c", "../a")
    }
    found = {text: match.group("id", "owner", "revision") for text, match in asked.items() if match}
    assert found == {
        "owner/name@v1.0": ("owner/name", "owner/", "v1.0"),
        "owner/name": ("owner/name", "owner/", None),
        "bert-base-uncased": ("bert-base-uncased", None, None),
    }
