from __future__ import annotations

import gzip
import http.server
import json
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from configs.loader import UsageError
from configs.schema.data import DataSpec
from jobs.data.shop import messages
from jobs.data.source import Row, rows
from tests.jobs.data.sources import EXPECTED, GOOD, JSON_LINES, parquet, read, refusal

CSV = 'text,label\nwhere is it?,track\n"wörds, with a comma",refund\n"two\nlines and a ""quote""",track\n'.encode()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The same rows in every format."""
    whole = {"rows.jsonl": JSON_LINES, "rows.ndjson": JSON_LINES, "rows.json": JSON_LINES, "rows.csv": CSV}
    whole["rows.parquet"] = parquet(tmp_path)
    for name, content in whole.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    return tmp_path


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; /broken/ ends in the middle of an answer."""

    def do_GET(self) -> None:
        if self.path.startswith("/broken/"):
            self.send_response(500)
            self.end_headers()
        elif self.path.startswith("/cut/"):
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(JSON_LINES)
        else:
            super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        """Nothing on stderr."""


@pytest.fixture
def server(files: Path) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(files))) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()
        thread.join()


FORMATS = [f"rows.{kind}{gz}" for kind in ("jsonl", "ndjson", "json", "csv", "parquet") for gz in ("", ".gz")]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_rows(files: Path, name: str):
    assert read(files / name) == EXPECTED


def test_a_source_may_stand_in_the_environment(server: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("configs.shown_urls._hidden", {})
    monkeypatch.setenv("SHOP_ROWS", f"{server}/rows.jsonl?signature=secret")
    assert read("env:SHOP_ROWS") == EXPECTED
    for name in ("none", "broken/rows", "cut/rows"):
        monkeypatch.setenv("SHOP_ROWS", f"{server}/{name}.jsonl?signature=secret")
        said = refusal("env:SHOP_ROWS")
        assert said.startswith("cannot be read: ")
        assert not any(part in said for part in ("secret", name, server))


@pytest.mark.parametrize("name", [*FORMATS, "rows.jsonl?token=1", "rows.csv.gz?token=1"])
def test_a_url_gives_the_same_rows(server: str, name: str):
    assert read(f"{server}/{name}") == EXPECTED


def test_a_url_that_does_not_answer_as_it_should_is_refused(server: str):
    assert "cannot be read: 404" in refusal(f"{server}/none.jsonl")
    assert "cannot be read: 500" in refusal(f"{server}/broken/rows.jsonl")
    assert "cannot be read: " in refusal(f"{server}/cut/rows.jsonl")


def test_a_server_that_is_not_there_is_refused():
    assert "cannot be read: Connect call failed" in refusal("http://127.0.0.1:9/rows.jsonl")


def test_the_embedded_rows_are_those_of_the_generator():
    made = list(rows(DataSpec.model_validate({}), "validation"))
    assert made == [Row(each["text"], None, each["label"]) for each in messages("validation")]
    assert "no such generator; embedded:shop" in refusal("embedded:news")


def sliced(file: Path, *columns: str) -> list[tuple[str, ...]]:
    spec = DataSpec.model_validate({"test": str(file), "slices": list(columns)})
    return [row.slices for row in rows(spec, "test")]


def test_slices_are_texts_of_their_columns_and_may_be_missing(tmp_path: Path):
    values = [("phone", 5), ("  chat ", 4.5), (None, True), ("", None)]
    lines = [{"text": "a", "label": "b", "channel": channel, "stars": stars} for channel, stars in values]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    expected = [("phone", "5"), ("chat", "4.5"), ("", "true"), ("", "")]
    assert sliced(tmp_path / "rows.jsonl", "channel", "stars") == expected
    assert sliced(tmp_path / "rows.jsonl", "stars", "channel") == [(stars, channel) for channel, stars in expected]
    parquet(tmp_path, text=["a", "a"], label=["b", "b"], stars=[1.0, float("nan")])
    assert sliced(tmp_path / "rows.parquet", "stars") == [("1",), ("",)]


def test_slices_are_read_of_test_rows_only(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_bytes(GOOD)
    assert read(tmp_path / "rows.jsonl", slices=["channel"]) == [Row("a", None, "b")]


def test_a_slice_that_is_no_column_or_no_value_is_refused(tmp_path: Path):
    (tmp_path / "rows.csv").write_text("text,label,channel\na,b,phone\n")
    with pytest.raises(UsageError, match=r"line 2: no column 'chanel'; columns here: text, label, channel$"):
        sliced(tmp_path / "rows.csv", "chanel")
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": "b", "tags": ["secret"]}\n')
    with pytest.raises(UsageError, match=r"line 1: column 'tags' holds a list; data\.slices takes texts") as refused:
        sliced(tmp_path / "rows.jsonl", "tags")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"slices": ["label"]}, "'label' is an input or the label"),
        ({"slices": ["body"], "text": "body"}, "'body' is an input or the label"),
        ({"slices": ["a", "b", "a"]}, "'a' is given twice"),
        ({"slices": ["a"], "test": None}, "are columns of the test rows; give data.test"),
    ],
)
def test_slices_that_can_say_nothing_are_refused(fields: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        DataSpec.model_validate(fields)


def test_pairs_come_from_two_columns(tmp_path: Path):
    (tmp_path / "pairs.csv").write_text("query,title,label\nred shoes,Red Shoe 42,1\n")
    assert read(tmp_path / "pairs.csv", text="query", text_pair="title") == [Row("red shoes", "Red Shoe 42", "1")]
    assert "line 2: no column 'name'; columns here: query, title, label" in refusal(
        tmp_path / "pairs.csv", text="query", text_pair="name"
    )


def test_labels_may_be_names_whole_numbers_or_truths(tmp_path: Path):
    values = [" spam ", 3, True, False, "0"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": "x", "label": v}) + "\n" for v in values))
    assert [row.label for row in read(tmp_path / "rows.jsonl")] == ["spam", "3", "true", "false", "0"]


def test_a_byte_order_mark_blank_lines_and_windows_line_ends_are_accepted(tmp_path: Path):
    (tmp_path / "rows.csv").write_bytes(b"\xef\xbb\xbf" + CSV.replace(b"\n", b"\r\n").replace(b"two\r\n", b"two\n"))
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + JSON_LINES.replace(b"\n", b"\r\n\r\n"))
    assert read(tmp_path / "rows.csv") == EXPECTED
    assert read(tmp_path / "rows.jsonl") == EXPECTED


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.csv.gz", "rows.parquet.gz"])
def test_a_gzip_that_is_cut_flipped_or_none_is_refused(files: Path, name: str):
    whole = (files / name).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for content in (whole[:-12], bytes(flipped), b"no gzip at all"):
        (files / name).write_bytes(content)
        message = refusal(files / name)
        assert "cannot be read: " in message or "not Parquet" in message or "not UTF-8" in message or "line" in message


def test_categories_of_parquet_are_read_as_their_names(tmp_path: Path):
    parquet(tmp_path, text=["a", "b"], label=pyarrow.array(["x", "y"]).dictionary_encode())
    assert [row.label for row in read(tmp_path / "rows.parquet")] == ["x", "y"]


@pytest.fixture
def known_to_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked for."""
    monkeypatch.setattr("cluster.hub.check", lambda *_: True)


def test_a_hub_id_is_read_with_datasets(
    known_to_the_hub: None, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A folder stands in for the Hub: `load_dataset` takes both the same way."""
    datasets = pytest.importorskip("datasets", reason="extra `hub`")
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_bytes(JSON_LINES)
    (folder / "validation.jsonl").write_bytes(JSON_LINES.splitlines(keepends=True)[0])
    monkeypatch.chdir(tmp_path)
    load = partial(datasets.load_dataset, cache_dir=str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "load_dataset", load)
    datasets.disable_progress_bars()
    assert read("owner/name") == EXPECTED
    assert list(rows(DataSpec.model_validate({"validation": "owner/name"}), "validation")) == EXPECTED[:1]
    with pytest.raises(UsageError, match=r"data\.test: owner/name: the Hub gave no split 'test': "):
        list(rows(DataSpec.model_validate({"test": "owner/name"}), "test"))


def test_unlabelled_rows_need_no_label(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_bytes(b'{"text": "a"}\n{"text": "b", "label": "track"}\n')
    data = DataSpec.model_validate({"unlabelled": str(tmp_path / "rows.jsonl")})
    assert list(rows(data, "unlabelled")) == [Row("a", None, ""), Row("b", None, "")]
    with pytest.raises(UsageError, match=r"data\.unlabelled: .*: line 1: no column 'said'"):
        list(rows(data.model_copy(update={"text": "said"}), "unlabelled"))


def test_the_generator_has_no_unlabelled_rows():
    with pytest.raises(UsageError, match=r"^data\.unlabelled: embedded:shop: all rows of the generator have labels; "):
        list(rows(DataSpec(unlabelled="embedded:shop"), "unlabelled"))


def test_the_hub_is_asked_for_the_revision_and_its_faults_are_one_line(
    known_to_the_hub: None, monkeypatch: pytest.MonkeyPatch
):
    asked: list[tuple[str, dict[str, Any]]] = []

    def load(name: str, **options: Any) -> list[dict[str, Any]]:
        asked.append((name, options))
        if options["revision"] is None:
            raise ConnectionError  # without a word
        return [{"text": "a", "label": 1}]

    monkeypatch.setattr("datasets.load_dataset", load)
    assert read("owner/name@v1.0") == [Row("a", None, "1")]
    assert asked == [("owner/name", {"split": "train", "revision": "v1.0"})]
    assert refusal("owner/name").startswith("the Hub gave no split 'train': ConnectionError; give")
    list(rows(DataSpec(unlabelled="owner/name@v2"), "unlabelled"))
    assert asked[-1] == ("owner/name", {"split": "train", "revision": "v2"})


def test_a_hub_id_without_the_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "installed with its extra 'hub'" in refusal("owner/name")


@pytest.mark.parametrize(
    ("value", "text", "slots"),
    [
        ({"name": "Apollo", "inch": 40}, "name: Apollo; inch: 40", (("name", "Apollo"), ("inch", "40"))),
        ([["name", "Apollo"], ["inch", 40.0]], "name: Apollo; inch: 40", (("name", "Apollo"), ("inch", "40"))),
        ({"name": "Apollo", "inch": None, "tags": []}, "name: Apollo", (("name", "Apollo"),)),
        ({"tags": ["new", None, "sale"]}, "tags: new; tags: sale", (("tags", "new"), ("tags", "sale"))),
        ("name: Apollo", "name: Apollo", ()),
    ],
)
def test_attributes_are_an_object_or_a_list_and_become_a_text(tmp_path: Path, value: Any, text: str, slots: Any):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"text": value, "label": "a"}) + "\n")
    (row,) = rows(DataSpec(train=str(file)), "train")
    assert (row.text, row.slots) == (text, slots)


def test_personal_data_is_replaced_wherever_a_model_would_read_it(tmp_path: Path):
    mail, redacted = "a@example.com", {"redact": ["email"]}
    said = [{"role": "user", "content": f"write to {mail}"}, {"role": "assistant", "content": f"to {mail}?"}]
    write = {"text": f"from {mail}", "second": mail, "about": {"mail": mail}, "label": mail, "said": said}
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(write) + "\n")
    (row,) = read(file, **redacted, text_pair="second")
    assert row == Row("from [EMAIL]", "[EMAIL]", mail), "a class stays as it is"

    def texts(**fields: Any) -> Row:
        data = DataSpec.model_validate({"train": str(file), **redacted, **fields})
        data.of_task(labelled=False)
        (found,) = rows(data, "train")
        return found

    assert texts(text="about")[:4] == ("mail: [EMAIL]", None, "[EMAIL]", (("mail", "[EMAIL]"),))
    found = texts(text="said", label="said")
    assert (found.messages, found.label) == ((("user", "write to [EMAIL]"),), "to [EMAIL]?")
    assert found.text == "user: write to [EMAIL]"


def test_an_own_pattern_that_takes_too_long_names_the_row_and_no_text(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "a" * 50_000, "label": "b"}) + "\n")
    said = refusal(tmp_path / "rows.jsonl", redact=["order"], order_pattern="(a|aa)+(?<=b)c")
    assert said == "line 1: data.order_pattern takes more than a second for one text; let it need less"
