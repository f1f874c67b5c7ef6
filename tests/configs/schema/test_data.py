import pytest
from pydantic import ValidationError

from configs.schema.data import HUB_ID, DataSpec


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


@pytest.mark.parametrize("kept", [4, 8192])
def test_so_many_tokens_are_kept_of_a_text_and_neither_fewer_nor_more(kept: int):
    assert DataSpec(max_length=kept).max_length == kept
    with pytest.raises(ValidationError, match=r"than or equal to (4|8192)"):
        DataSpec(max_length=kept + (1 if kept > 4 else -1))
