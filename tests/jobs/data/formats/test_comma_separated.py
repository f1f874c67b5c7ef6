"""CSV as spreadsheets, databases and people write it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from jobs.data.source import Row
from tests.jobs.data.sources import EXPECTED, read, refusal


def test_a_field_may_be_as_long_as_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    long = "word " * 40_000 + "end"
    (tmp_path / "rows.csv").write_text(f'text,label\n"{long}",a\n"{long}\n{long}",b\n')
    assert [len(row.text) for row in read(tmp_path / "rows.csv")] == [200_003, 400_007]
    monkeypatch.setattr("jobs.data.formats.files.LONGEST_LINE_BYTES", 300_000)
    assert refusal(tmp_path / "rows.csv") == "line 4: not CSV: field larger than field limit (300000)"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_the_header_says_what_separates_the_fields(tmp_path: Path, separator: str):
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8-sig") as file:
        lines = csv.writer(file, delimiter=separator)
        lines.writerows([("id", "text", "label"), *((1, row.text, row.label) for row in EXPECTED)])
    assert read(tmp_path / "rows.csv") == EXPECTED


def test_separators_within_quoted_names_separate_nothing(tmp_path: Path):
    (tmp_path / "rows.csv").write_text('text,"a; b; c",label\n"one, two",x,y\n')
    assert read(tmp_path / "rows.csv") == [Row("one, two", None, "y")]


def test_spaces_after_the_commas_of_a_header_are_spaces_after_all_commas(tmp_path: Path):
    (tmp_path / "rows.csv").write_text('text , label\nhello , a\n"one, two", b \nthree, "c"\n')
    assert read(tmp_path / "rows.csv") == [Row("hello", None, "a"), Row("one, two", None, "b"), Row("three", None, "c")]


def test_without_them_a_text_keeps_its_spaces(tmp_path: Path):
    (tmp_path / "rows.csv").write_text("label,text\na, hello\n")
    assert read(tmp_path / "rows.csv") == [Row(" hello", None, "a")]
    (tmp_path / "rows.csv").write_text('label,text\na, "hello, you"\n')
    assert refusal(tmp_path / "rows.csv") == (
        "line 2: not 2 fields as in the header; quote the commas, without a space before the quote"
    )


@pytest.mark.parametrize("ends", [["\r\n"], ["\n", "\r\n"], ["\n\n", "\r\n"]])
def test_lines_may_end_in_several_ways_and_be_blank(tmp_path: Path, ends: list[str]):
    lines = ["text,label", "a,x", "b,y", "c,z"]
    (tmp_path / "rows.csv").write_bytes(
        "".join(f"{each}{ends[n % len(ends)]}" for n, each in enumerate(lines)).encode()
    )
    assert [row.label for row in read(tmp_path / "rows.csv")] == ["x", "y", "z"]


def test_line_ends_of_the_classic_mac_are_refused_by_name(tmp_path: Path):
    (tmp_path / "rows.csv").write_bytes(b"text,label\ra,b\r")
    assert refusal(tmp_path / "rows.csv").startswith("line 1: not CSV: a carriage return ends its lines")


def test_a_name_that_differs_from_another_in_its_spaces_only_is_given_twice(tmp_path: Path):
    (tmp_path / "rows.csv").write_text("text, text,label\na,b,c\n")
    assert refusal(tmp_path / "rows.csv") == "line 1: column 'text' is given twice; rename one"
