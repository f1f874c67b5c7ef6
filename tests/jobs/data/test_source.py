from __future__ import annotations

import gzip
import http.server
import json
import sys
import threading
import types
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
from jobs.data.source import Row, rows, shown

RECORDS = [
    {"text": "where is it?", "label": "track"},
    {"text": "wörds, with a comma", "label": "refund"},
    {"text": 'two\nlines and a "quote"', "label": "track"},
]
EXPECTED = [Row(each["text"], None, each["label"]) for each in RECORDS]
JSON_LINES = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in RECORDS).encode()
CSV = 'text,label\nwhere is it?,track\n"wörds, with a comma",refund\n"two\nlines and a ""quote""",track\n'.encode()


def parquet(folder: Path, name: str = "rows.parquet", **columns: Any) -> bytes:
    columns = columns or {key: [each[key] for each in RECORDS] for key in ("text", "label")}
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / name)
    return (folder / name).read_bytes()


def read(source: str | Path, **fields: Any) -> list[Row]:
    return list(rows(DataSpec.model_validate({"train": str(source), **fields}), "train"))


def refusal(source: str | Path, **fields: Any) -> str:
    with pytest.raises(UsageError) as refused:
        read(source, **fields)
    message = str(refused.value)
    assert message.startswith(f"data.train: {source}: ")
    return message.removeprefix(f"data.train: {source}: ")


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


@pytest.mark.parametrize("name", [*FORMATS, "rows.jsonl?token=1", "rows.csv.gz?token=1"])
def test_a_url_gives_the_same_rows(server: str, name: str):
    assert read(f"{server}/{name}") == EXPECTED


def test_a_url_that_does_not_answer_as_it_should_is_refused(server: str):
    assert "cannot be read: 404" in refusal(f"{server}/none.jsonl")
    assert "cannot be read: 500" in refusal(f"{server}/broken/rows.jsonl")
    assert "cannot be read: " in refusal(f"{server}/cut/rows.jsonl")


def test_a_server_that_is_not_there_is_refused():
    assert "cannot be read: Cannot connect" in refusal("http://127.0.0.1:9/rows.jsonl")


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
    assert sliced(tmp_path / "rows.parquet", "stars") == [("1.0",), ("",)]


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


GOOD = b'{"text": "a", "label": "b"}\n'
JSON_FAULTS = {
    "missing column": (GOOD + b'{"text": "a"}', "line 2: no column 'label'; columns here: text"),
    "null": (GOOD + b'{"text": null, "label": "b"}', "line 2: column 'text' has no value; remove the row or fill it"),
    "NaN label": (GOOD + b'{"text": "a", "label": NaN}', "line 2: column 'label' has no value"),
    "empty text": (
        GOOD + b'\n{"text": " ", "label": "b"}',
        "line 3: column 'text' is empty; remove the row or fill it",
    ),
    "empty label": (GOOD + b'{"text": "a", "label": ""}', "line 2: column 'label' is empty"),
    "number for a text": (GOOD + b'{"text": 3, "label": "b"}', "line 2: column 'text' holds a int; text is expected"),
    "list for a label": (GOOD + b'{"text": "a", "label": ["b"]}', "line 2: column 'label' holds a list"),
    "part of a number for a label": (GOOD + b'{"text": "a", "label": 1.5}', "line 2: column 'label' holds a float"),
    "broken line": (GOOD + b'{"text": "a", ', "line 2: not JSON ("),
    "array over all rows": (b'[{"text": "a", "label": "b"}]', "line 1: a JSON list; one JSON object a line"),
    "pretty-printed": (b'{\n"text": "a"\n}', "line 1: not JSON ("),
    "text line": (GOOD + b'"a"', "line 2: a JSON str; one JSON object a line"),
    "deep line": (GOOD + b"[" * 200_000, "line 2: not JSON (nested too deep)"),
    "endless number": (b'{"text": "a", "label": 1' + b"0" * 5000 + b"}", "line 1: not JSON (Exceeds the limit"),
    "invalid UTF-8": (GOOD + b'{"text": "caf\xe9", "label": "b"}', "line 2: byte 13 is not UTF-8; save the file as"),
    "UTF-16": (GOOD.decode().encode("utf-16"), "line 1: byte 0 is not UTF-8"),
    "half a character": (GOOD + rb'{"text": "a \ud83d", "label": "b"}', "line 2: column 'text' holds half a character"),
    "half a label": (GOOD + rb'{"text": "a", "label": "\udc00"}', "line 2: column 'label' holds half a character"),
    "empty file": (b"", "holds no rows"),
    "blank lines": (b"\n\n", "holds no rows"),
}


@pytest.mark.parametrize("name", JSON_FAULTS)
def test_a_fault_in_json_lines_names_its_line_and_column(tmp_path: Path, name: str):
    content, said = JSON_FAULTS[name]
    (tmp_path / "rows.jsonl").write_bytes(content)
    assert refusal(tmp_path / "rows.jsonl").startswith(said)


CSV_FAULTS = {
    "missing column": (b"text,class\na,b\n", "line 2: no column 'label'; columns here: text, class"),
    "too many fields": (b"text,label\na,b\na, c,b\n", "line 3: not 2 fields as in the header; quote the commas"),
    "too few fields": (b"text,label\na,b\na\n", "line 3: not 2 fields as in the header"),
    "empty text": (b"text,label\na,b\n,b\n", "line 3: column 'text' is empty"),
    "fault after a text of two lines": (b'text,label\n"a\na",b\na,\n', "line 4: column 'label' is empty"),
    "open quote": (b'text,label\n"a,b\n', "line 2: not CSV: unexpected end of data"),
    "text after a quote": (b'text,label\n"a"a,b\n', "line 2: not CSV: "),
    "column given twice": (b"text,text,label\na,b,c\n", "line 1: column 'text' is given twice; rename one"),
    "invalid UTF-8": (b"text,label\na,b\ncaf\xe9,b\n", "line 3: byte 3 is not UTF-8"),
    "header alone": (b"text,label\n", "holds no rows"),
    "empty file": (b"", "holds no rows"),
}


@pytest.mark.parametrize("name", CSV_FAULTS)
def test_a_fault_in_csv_names_its_line_and_column(tmp_path: Path, name: str):
    content, said = CSV_FAULTS[name]
    (tmp_path / "rows.csv").write_bytes(content)
    assert refusal(tmp_path / "rows.csv").startswith(said)


def test_no_message_repeats_the_text_of_a_row(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"text": "my card is 4111", "label": [4111]}\n')
    assert "4111" not in refusal(tmp_path / "rows.jsonl")
    (tmp_path / "rows.csv").write_text("text,label\nmy card is 4111,4111,4111\n")
    assert "4111" not in refusal(tmp_path / "rows.csv")


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.csv.gz", "rows.parquet.gz"])
def test_a_gzip_that_is_cut_flipped_or_none_is_refused(files: Path, name: str):
    whole = (files / name).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for content in (whole[:-12], bytes(flipped), b"no gzip at all"):
        (files / name).write_bytes(content)
        message = refusal(files / name)
        assert "cannot be read: " in message or "not Parquet" in message or "not UTF-8" in message or "line" in message


def test_no_message_shows_what_opens_an_address():
    data = DataSpec(train="http://user:secret@127.0.0.1:9/rows.jsonl?X-Amz-Signature=abc")
    with pytest.raises(UsageError, match=r"^data\.train: http://127\.0\.0\.1:9/rows\.jsonl\?…: cannot be ") as refused:
        list(rows(data, "train"))
    assert not any(word in str(refused.value) for word in ("secret", "Signature", "abc"))


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"text": ["a"], "class": ["b"]}, "row 1: no column 'label'; columns here: text, class"),
        ({"text": ["a", None], "label": ["b", "b"]}, "row 2: column 'text' has no value"),
        ({"text": ["a"], "label": [0.5]}, "row 1: column 'label' holds a float"),
        ({"text": [b"a"], "label": ["b"]}, "row 1: column 'text' holds a bytes; text is expected"),
        ({"text": pyarrow.array([], pyarrow.string()), "label": pyarrow.array([], pyarrow.string())}, "holds no rows"),
    ],
)
def test_a_fault_in_parquet_names_its_row_and_column(tmp_path: Path, columns: dict[str, Any], said: str):
    parquet(tmp_path, **columns)
    assert refusal(tmp_path / "rows.parquet").startswith(said)


def test_categories_of_parquet_are_read_as_their_names(tmp_path: Path):
    parquet(tmp_path, text=["a", "b"], label=pyarrow.array(["x", "y"]).dictionary_encode())
    assert [row.label for row in read(tmp_path / "rows.parquet")] == ["x", "y"]


def test_extension_types_of_parquet_are_refused(tmp_path: Path):
    parquet(tmp_path, text=["a"], label=["b"], id=pyarrow.array([b"0" * 16], pyarrow.uuid()))
    assert "column 'id' has the extension type" in refusal(tmp_path / "rows.parquet")


def test_damaged_parquet_is_refused(tmp_path: Path):
    whole = parquet(tmp_path, text=["abcdefgh" * 50] * 100, label=["b"] * 100)
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 nothing else")
    assert refusal(tmp_path / "rows.parquet").startswith("not Parquet: ")
    damaged = bytearray(whole)
    damaged[4:60] = b"\xff" * 56  # the pages, not the footer
    (tmp_path / "rows.parquet").write_bytes(bytes(damaged))
    assert refusal(tmp_path / "rows.parquet").startswith("cannot be read: ")


@pytest.mark.parametrize("source", ["rows", "rows.txt", "rows.tsv", "rows.jsonl.zip", "imdb", "a/b/c", "./rows", ""])
def test_what_is_neither_file_nor_id_is_refused(source: str):
    if source:
        assert "or a Hub id owner/name" in refusal(source)
    else:
        with pytest.raises(ValueError, match="at least 1 character"):
            DataSpec.model_validate({"train": source})


def test_a_missing_file_a_folder_and_an_unknown_protocol_are_refused(tmp_path: Path):
    assert refusal(tmp_path / "none.jsonl") == "no such file"
    (tmp_path / "folder.csv").mkdir()
    assert "cannot be read: " in refusal(tmp_path / "folder.csv")
    assert "cannot be read: Protocol not known: nowhere" in refusal("nowhere://bucket/rows.csv")


def test_a_split_that_the_recipe_leaves_out_is_refused():
    with pytest.raises(UsageError, match=r"data\.test: missing; give a file"):
        next(rows(DataSpec.model_validate({"test": None}), "test"))


def test_a_line_that_is_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jobs.data.source.LONGEST_LINE_BYTES", 100)
    (tmp_path / "rows.jsonl").write_bytes(GOOD + b" " * 200)
    assert refusal(tmp_path / "rows.jsonl").startswith("line 2: longer than 100 bytes")


def test_a_hub_id_is_read_with_datasets(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
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


def test_the_hub_is_asked_for_the_revision_and_its_faults_are_one_line(monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[str, dict[str, Any]]] = []

    def load(name: str, **options: Any) -> list[dict[str, Any]]:
        asked.append((name, options))
        if options["revision"] is None:
            raise ConnectionError  # without a word
        return [{"text": "a", "label": 1}]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load))
    assert read("owner/name@v1.0") == [Row("a", None, "1")]
    assert asked == [("owner/name", {"split": "train", "revision": "v1.0"})]
    assert refusal("owner/name") == "the Hub gave no split 'train': ConnectionError"
    list(rows(DataSpec(unlabelled="owner/name@v2"), "unlabelled"))
    assert asked[-1] == ("owner/name", {"split": "train", "revision": "v2"})


def test_a_hub_id_without_the_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "installed with its extra 'hub'" in refusal("owner/name")


@pytest.mark.parametrize(
    ("value", "text", "slots"),
    [
        ({"name": "Apollo", "inch": 40}, "name: Apollo; inch: 40", (("name", "Apollo"), ("inch", "40"))),
        ([["name", "Apollo"], ["inch", 40]], "name: Apollo; inch: 40", (("name", "Apollo"), ("inch", "40"))),
        ("name: Apollo", "name: Apollo", ()),
    ],
)
def test_attributes_are_an_object_or_a_list_and_become_a_text(tmp_path: Path, value: Any, text: str, slots: Any):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"text": value, "label": "a"}) + "\n")
    (row,) = rows(DataSpec(train=str(file)), "train")
    assert (row.text, row.slots) == (text, slots)


@pytest.mark.parametrize("value", [{"name": None}, {"name": True}, {"name": ["a"]}, ["name"], [["a", "b", "c"]]])
def test_an_attribute_that_is_none_is_refused(tmp_path: Path, value: Any):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"text": value, "label": "a"}) + "\n")
    with pytest.raises(UsageError, match=r"line 1: column 'text': an attribute is a name with a text or a number"):
        list(rows(DataSpec(train=str(file)), "train"))


def test_a_label_is_shown_unless_it_may_be_what_a_customer_wrote():
    said = "I am Jane Roe, card 4111 1111"
    assert shown("refund", ["track", "refund", "track"]) == "'refund'"
    assert shown("late delivery", ["track"] * 3 + ["late delivery"]) == "'late delivery'"
    assert shown(said, ["track", said]) == "of row 2 (29 characters, not shown: it may be a text)"
    assert shown("7", [str(number) for number in range(11)]).startswith("of row 8 (1 characters")
    assert said not in shown(3 * said, [3 * said] * 9)
