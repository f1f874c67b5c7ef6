"""Files and rows that cannot be read, each with the place and what would work."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from configs.loader import UsageError
from configs.schema.data import DataSpec
from jobs.data.source import Row, rows, shown
from tests.jobs.data.sources import GOOD, parquet, read, refusal

JSON_FAULTS = {
    "missing column": (GOOD + b'{"text": "a"}', "line 2: no column 'label'; columns here: text"),
    "null": (GOOD + b'{"text": null, "label": "b"}', "line 2: column 'text' has no value; remove the row or fill it"),
    "NaN label": (GOOD + b'{"text": "a", "label": NaN}', "line 2: column 'label' has no value"),
    "empty text": (
        GOOD + b'\n{"text": " ", "label": "b"}',
        "line 3: column 'text' is empty; remove the row or fill it",
    ),
    "empty label": (GOOD + b'{"text": "a", "label": ""}', "line 2: column 'label' is empty"),
    "number for a text": (GOOD + b'{"text": 3, "label": "b"}', "line 2: column 'text' holds an int; text is expected"),
    "list for a label": (GOOD + b'{"text": "a", "label": ["b"]}', "line 2: column 'label' holds a list"),
    "endless number for a label": (
        GOOD + b'{"text": "a", "label": Infinity}',
        "line 2: column 'label' holds a number that is not finite; a class is a text, a number, true or false",
    ),
    "name given twice": (GOOD + b'{"text": "a", "text": "c", "label": "b"}', "line 2: column 'text' is given twice"),
    "attribute given twice": (GOOD + b'{"text": {"a": 1, "a": 2}, "label": "b"}', "line 2: column 'a' is given twice"),
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
        ({"text": ["a"], "label": [[0.5]]}, "row 1: column 'label' holds a list"),
        ({"text": ["a"], "label": [float("inf")]}, "row 1: column 'label' holds a number that is not finite"),
        (
            {"text": ["a"], "label": [datetime.date(2024, 1, 1)]},
            "row 1: column 'label' holds a date; a class is a text",
        ),
        (
            {"text": ["a"], "label": [datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)]},
            "row 1: column 'label' holds a datetime",
        ),
        ({"text": [b"a"], "label": ["b"]}, "row 1: column 'text' holds a bytes; text is expected"),
        ({"text": pyarrow.array([], pyarrow.string()), "label": pyarrow.array([], pyarrow.string())}, "holds no rows"),
    ],
)
def test_a_fault_in_parquet_names_its_row_and_column(tmp_path: Path, columns: dict[str, Any], said: str):
    parquet(tmp_path, **columns)
    assert refusal(tmp_path / "rows.parquet").startswith(said)


def test_extension_types_of_parquet_are_refused(tmp_path: Path):
    parquet(tmp_path, text=["a"], label=["b"], id=pyarrow.array([b"0" * 16], pyarrow.uuid()))
    assert "column 'id' has the extension type" in refusal(tmp_path / "rows.parquet", label="id")
    assert read(tmp_path / "rows.parquet") == [Row("a", None, "b")]  # nobody reads it


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


def test_a_missing_file_and_an_unknown_protocol_are_refused(tmp_path: Path):
    assert refusal(tmp_path / "none.jsonl") == "no such file"
    assert "cannot be read: Protocol not known: nowhere" in refusal("nowhere://bucket/rows.csv")


def test_a_split_that_the_recipe_leaves_out_is_refused():
    with pytest.raises(UsageError, match=r"data\.test: missing; give a file"):
        next(rows(DataSpec.model_validate({"test": None}), "test"))


def test_a_line_that_is_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jobs.data.formats.files.LONGEST_LINE_BYTES", 100)
    (tmp_path / "rows.jsonl").write_bytes(GOOD + b" " * 200)
    assert refusal(tmp_path / "rows.jsonl").startswith("line 2: longer than 100 bytes")


@pytest.mark.parametrize(
    "value", [{"name": True}, {"name": [True]}, {"name": [["a"]]}, {"name": {"b": "c"}}, ["name"], [["a", "b", "c"]]]
)
def test_an_attribute_that_is_none_is_refused(tmp_path: Path, value: Any):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"text": value, "label": "a"}) + "\n")
    with pytest.raises(UsageError, match=r"line 1: column 'text': an attribute is a name with a text, a number or"):
        list(rows(DataSpec(train=str(file)), "train"))


def test_a_label_is_shown_unless_it_may_be_what_a_customer_wrote():
    said = "I am Jane Roe, card 4111 1111"
    assert shown("refund", ["track", "refund", "track"]) == "'refund'"
    assert shown("late delivery", ["track"] * 3 + ["late delivery"] * 2) == "'late delivery'"
    assert shown("late delivery", ["track"] * 3 + ["late delivery"]).startswith("of row 4 (13 characters")
    assert shown(said, ["track", said]) == "of row 2 (29 characters, not shown: it may be a text)"
    assert shown("7", [str(number) for number in range(11)]).startswith("of row 8 (1 characters")
    assert said not in shown(3 * said, [3 * said] * 9)
    for text in ("我的卡号是四一一一", "บัตรของฉันหาย", "カードをなくしました"):  # a sentence without a space
        assert text not in shown(text, ["退款", text])
    assert shown("退款", ["物流", "退款"]) == "'退款'"
