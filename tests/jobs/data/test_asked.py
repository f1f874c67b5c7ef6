"""Rows to be answered: read from every form of source, checked, and kept for their user alone."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from configs.loader import UsageError
from configs.schema.recipe import Recipe
from jobs.data.asked import Asked, check_sources, take_parts


def recipe(source: Path | str, data: dict[str, Any] | None = None, **score: Any) -> Recipe:
    return Recipe.model_validate(
        {"name": "tiny", "data": {"test": None, **(data or {})}, "score": {"input": str(source), **score}}
    )


def write(file: Path, *rows: Any) -> Path:
    file.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return file


def taken(recipe: Recipe, folder: Path) -> list[Asked]:
    with take_parts(recipe, folder, ["label", "score"]) as parts:
        return [row for number in range(len(parts.rows)) for row in parts.read(number)]


def test_a_pattern_reads_its_files_in_the_order_of_their_numbers(tmp_path: Path):
    for number in (10, 2):
        write(tmp_path / f"day-{number}.jsonl", {"text": f"day {number}"})
    write(tmp_path / "week-1.jsonl", {"text": "week"})
    asked = recipe(tmp_path / "day-*.jsonl")
    assert [row.input for row in taken(asked, tmp_path)] == ["day 2", "day 10"]
    check_sources(asked)


def test_csv_parquet_and_packed_files_are_read_alike(tmp_path: Path):
    rows = [{"text": "where, now", "id": "a"}, {"text": "cancel", "id": "b"}]
    write(tmp_path / "a.jsonl", *rows)
    (tmp_path / "a.csv").write_text('text,id\n"where, now",a\ncancel,b\n')
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    found = [
        [row[1:] for row in taken(recipe(tmp_path / f"a.{form}"), tmp_path)] for form in ("jsonl", "csv", "parquet")
    ]
    assert found[0] == found[1] == found[2] == [("where, now", {}, rows[0]), ("cancel", {}, rows[1])]


def test_the_fingerprint_is_of_the_rows_and_not_of_their_file(tmp_path: Path):
    def fingerprint(*rows: Any, name: str = "a.jsonl", **score: Any) -> str:
        with take_parts(recipe(write(tmp_path / name, *rows), **score), tmp_path, []) as parts:
            return parts.fingerprint

    first = fingerprint({"text": "a", "id": 1})
    assert first == fingerprint({"text": "a", "id": 1}, name="b.jsonl")
    assert first != fingerprint({"text": "a", "id": 2})
    assert fingerprint({"text": "a", "id": 1}, keep=[]) == fingerprint({"text": "a", "id": 2}, keep=[])


def test_parts_are_read_by_their_user_alone_and_go_with_the_block(tmp_path: Path):
    source = write(tmp_path / "a.jsonl", *[{"text": str(n)} for n in range(5)])
    with take_parts(recipe(source, rows_per_file=2, format="parquet"), tmp_path, []) as parts:
        files = list((tmp_path / ".work").iterdir())
        assert parts.rows == [2, 2, 1] and len(files) == 6
        assert {each.stat().st_mode & 0o777 for each in files} == {0o600}
        assert parts.table(2)["text"].to_pylist() == ["4"]
    assert not list((tmp_path / ".work").iterdir())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", r"a\.jsonl: line 2: not JSON"),
        ('{"id": 1}', r"a\.jsonl: line 2: no column 'text'; columns here: id"),
        ('{"text": " "}', r"a\.jsonl: line 2: column 'text' is empty"),
        ('{"text": "a", "note": "\\ud800"}', r"a\.jsonl: line 2: holds half a character"),
        ('{"text": "a", "label": "x"}', r"a\.jsonl: line 2: column 'label' is also what the answers have; set score\."),
    ],
)
def test_a_wrong_row_is_one_line_and_nothing_stays(line: str, said: str, tmp_path: Path):
    source = write(tmp_path / "a.jsonl", {"text": "a secret"}, line)
    with pytest.raises(UsageError, match=said) as refused:
        taken(recipe(source), tmp_path)
    assert "secret" not in str(refused.value) and "\n" not in str(refused.value)
    assert not list((tmp_path / ".work").iterdir())


def test_values_that_json_does_not_know_are_texts_and_numbers(tmp_path: Path):
    row = {"text": "a", "at": datetime(2026, 12, 1, 8, tzinfo=UTC), "price": Decimal("19.90"), "much": Decimal("1e-30")}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "a.parquet")
    (found,) = taken(recipe(tmp_path / "a.parquet"), tmp_path)
    assert (found.kept["at"], found.kept["price"], float(found.kept["much"])) == (
        "2026-12-01T08:00:00+00:00",
        19.9,
        1e-30,
    )
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"text": "a", "picture": b"\0"}]), tmp_path / "b.parquet")
    with pytest.raises(UsageError, match=r"row 1: a column holds bytes, which has no form in text; write score\.form"):
        taken(recipe(tmp_path / "b.parquet"), tmp_path)
    assert taken(recipe(tmp_path / "b.parquet", format="parquet"), tmp_path)[0].input == "a"


def test_columns_of_several_types_are_no_column_of_a_table(tmp_path: Path):
    source = write(tmp_path / "a.jsonl", {"text": "a", "n": 1}, {"text": "b", "n": "x"})
    for rows_per_file in (1, 2):
        with pytest.raises(UsageError, match=r"is no table: .*write score\.format=jsonl, or leave the column out"):
            taken(recipe(source, format="parquet", rows_per_file=rows_per_file), tmp_path)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{folder}/none.jsonl", "none.jsonl: no such file"),
        ("{folder}/none-*.jsonl", "no file has such a name"),
        ("{folder}/a.txt", "a.txt: not a .jsonl, .csv or .parquet file"),
        ("{folder}/a.csv", "a.csv: no column 'text'; columns here: id"),
    ],
)
def test_a_source_that_cannot_do_is_refused_before_the_job(source: str, said: str, tmp_path: Path):
    write(tmp_path / "a.txt", "text")
    write(tmp_path / "a.csv", "id", "1")
    with pytest.raises(UsageError) as refused:
        check_sources(recipe(source.format(folder=tmp_path)))
    assert said in str(refused.value) and str(refused.value).startswith("score.input: ")


def test_without_an_input_it_is_asked_for():
    with pytest.raises(UsageError, match=r"^score\.input: missing; give "):
        check_sources(Recipe(name="x"))
