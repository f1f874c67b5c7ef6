"""Names of files, and folders of them."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from configs.loader import UsageError
from configs.schema.data import DataSpec
from jobs.data.snapshot import take_snapshot
from jobs.data.source import Row, check_source, hashes, rows
from tests.jobs.data.sources import EXPECTED, GOOD, JSON_LINES, parquet, read, refusal

PACKERS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize(
    "name", ["ROWS.JSONL", "Rows.Json", "rows.NDJSON", "ROWS.JSONL.GZ", "rows.jsonl.bz2", "rows.json.XZ"]
)
def test_a_name_says_its_form_in_any_case_and_packed(tmp_path: Path, name: str):
    pack = PACKERS.get(name.rpartition(".")[2].lower(), bytes)
    (tmp_path / name).write_bytes(pack(JSON_LINES))
    assert read(tmp_path / name) == EXPECTED


def test_columnar_files_may_be_packed_and_in_capitals_too(tmp_path: Path):
    whole = parquet(tmp_path)
    (tmp_path / "ROWS.PARQUET").write_bytes(whole)
    (tmp_path / "rows.parquet.xz").write_bytes(lzma.compress(whole))
    assert read(tmp_path / "ROWS.PARQUET") == read(tmp_path / "rows.parquet.xz") == EXPECTED


@pytest.fixture(params=["train.parquet", "rows", "rows/"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Twelve parts as programs write them: the names in the order of their numbers, and what is no part."""
    made = tmp_path / request.param
    made.mkdir()
    for number in range(12):
        parquet(made, f"part-{number}.snappy.parquet", text=[f"text {number}"], label=["a"])
    parquet(made, "part-12.snappy.parquet", text=[], label=[])
    for name in ("_SUCCESS", "_metadata", ".part-3.crc", ".DS_Store"):
        (made / name).write_bytes(b"no rows")
    (made / "_temporary").mkdir()
    return str(tmp_path / request.param) + ("/" if request.param.endswith("/") else "")


def test_a_folder_of_parts_is_read_in_the_order_of_their_numbers(folder: str):
    assert read(folder) == [Row(f"text {number}", None, "a") for number in range(12)]


def test_rows_of_a_folder_are_counted_over_all_its_parts(folder: str):
    seen = hashes(DataSpec(train=folder), "train")
    assert (list(seen.lines), seen.unit) == (list(range(1, 13)), "rows")


def test_the_columns_of_a_folder_are_looked_at_before_any_row(folder: str):
    check_source(DataSpec(test=folder), "test")
    with pytest.raises(UsageError, match=r"no column 'said'; columns here: text, label"):
        check_source(DataSpec(test=folder, text="said"), "test")


def test_a_fault_in_a_part_names_the_part(tmp_path: Path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.jsonl").write_bytes(GOOD)
    (tmp_path / "rows" / "b.jsonl.gz").write_bytes(gzip.compress(GOOD + b"{"))
    assert refusal(tmp_path / "rows").startswith("b.jsonl.gz: line 2: not JSON (")


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_shards_of_other_forms_are_read_too(tmp_path: Path, name: str):
    (tmp_path / "parts").mkdir()
    stem, _, kind = name.partition(".")
    for number, row in enumerate(EXPECTED):
        lines = f'text,label\n"{row.text.replace(chr(34), 2 * chr(34))}",{row.label}\n'
        text = lines if kind == "csv" else json.dumps({"text": row.text, "label": row.label})
        (tmp_path / "parts" / f"{stem}-{number}.{kind}").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read(tmp_path / "parts") == EXPECTED


def test_a_folder_at_another_place_is_read_alike(tmp_path: Path):
    system = fsspec.filesystem("memory")
    system.pipe({f"/shards/{n}.jsonl": line for n, line in enumerate(JSON_LINES.splitlines())})
    try:
        assert read("memory://shards/0.jsonl") == EXPECTED[:1]
        system.mv("/shards", "/shards.jsonl", recursive=True)
        assert read("memory://shards.jsonl") == EXPECTED
    finally:
        system.rm("/", recursive=True)


REFUSED = {
    "nothing": ({}, "holds no rows"),
    "hidden files alone": ({"_SUCCESS": b"", ".a.jsonl": GOOD}, "holds no rows"),
    "folders of a column": ({"label=a/0.jsonl": GOOD}, "holds the folder 'label=a'; put all files"),
    "another file": ({"0.jsonl": GOOD, "README.md": b"#"}, "'README.md' in it is not a .jsonl, .csv or"),
    "two forms": ({"0.jsonl": GOOD, "1.csv": b"text,label\na,b\n"}, "holds files of several forms (csv, jsonl)"),
    "a lake": ({"0.jsonl": GOOD, "_delta_log/0.json": b"{}"}, "a Delta table, whose files also keep rows"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_folder_that_is_no_folder_of_parts_is_refused(tmp_path: Path, name: str):
    files, said = REFUSED[name]
    (tmp_path / "rows").mkdir()
    for file, content in files.items():
        (tmp_path / "rows" / file).parent.mkdir(exist_ok=True)
        (tmp_path / "rows" / file).write_bytes(content)
    assert refusal(tmp_path / "rows").startswith(said)


def test_a_part_that_is_written_again_has_changed(tmp_path: Path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "0.jsonl").write_bytes(GOOD)
    data = DataSpec(validation=str(tmp_path / "rows"))
    with take_snapshot(data, "validation", tmp_path / "output") as taken:
        assert taken.looks_current(data)
        (tmp_path / "rows" / "0.jsonl").write_bytes(GOOD + GOOD)
        assert not taken.looks_current(data)
    assert len(list(rows(data, "validation"))) == 2
