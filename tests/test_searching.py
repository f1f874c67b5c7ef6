"""The searcher finds what is there, in each form and container, and nothing else."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import os
import sqlite3
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, quote_plus

import pyarrow
import pyarrow.parquet
import pytest

from tests.searching import Hit, Searcher

PLAIN, OTHER = "where is my parcel", "где моя посылка"
FORMS: dict[str, Callable[[str], bytes]] = {
    "UTF-8": str.encode,
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16 of another end": lambda text: text.encode("utf-16-be"),
    "JSON": lambda text: json.dumps({"inputs": [text]}).encode(),
    "percent": lambda text: quote(text).encode(),
    "percent of a form": lambda text: quote_plus(text).encode(),
    "Python": lambda text: repr(text.encode()).encode(),
    **{f"Base64 at {n}": lambda text, n=n: base64.b64encode(b"x" * n + text.encode() + b"yz") for n in range(3)},
}


def zipped(content: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b.txt", content)
    return made.getvalue()


def parquet(content: bytes) -> bytes:
    made = io.BytesIO()
    texts = ["first", *[content.decode("utf-8", "replace")] * 50]
    pyarrow.parquet.write_table(pyarrow.table({"number": range(51), "text": texts}), made, compression="zstd")
    return made.getvalue()


def sqlite(content: bytes) -> bytes:
    """A value that lies on more than one page."""
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE TABLE said (what BLOB)")
        database.execute("INSERT INTO said VALUES (?)", (b"x" * 4000 + content + b"x" * 9000,))
        database.commit()
        return database.serialize()


CONTAINERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zip": zipped,
    "zip program": lambda content: b"#!/usr/bin/env python3\n" + zipped(content),
    "zip in gzip": lambda content: gzip.compress(zipped(content)),
    "Parquet": parquet,
    "SQLite": sqlite,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("text", [PLAIN, OTHER])
def test_a_text_is_found_in_each_form_inside_other_bytes(tmp_path: Path, form: str, text: str):
    (tmp_path / "log").write_bytes(b"\x00before " + FORMS[form](text) + b" after\n")
    (tmp_path / "other").write_bytes(FORMS[form](text[1:]))
    hits = Searcher([text]).in_folders([tmp_path])
    assert {(hit.text, hit.path.name) for hit in hits} == {(text, "log")}


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_text_is_found_in_each_container_that_hides_it(tmp_path: Path, name: str):
    (tmp_path / "kept").write_bytes(CONTAINERS[name](OTHER.encode()))
    (tmp_path / "clean").write_bytes(CONTAINERS[name](PLAIN.encode()))
    hits = Searcher([OTHER]).in_folders([tmp_path])
    assert {(hit.text, hit.path.name) for hit in hits} == {(OTHER, "kept")}


def test_what_only_begins_like_a_container_is_searched_as_it_is(tmp_path: Path):
    for begins in (b"\x1f\x8b", b"BZh", b"PK\x03\x04", b"PAR1", b"SQLite format 3\x00", b"\xfd7zXZ\x00", b"#!"):
        (tmp_path / begins.hex()).write_bytes(begins + PLAIN.encode())
    assert len({hit.path for hit in Searcher([PLAIN]).in_folders([tmp_path])}) == 7


def test_a_text_in_the_name_of_a_file_or_folder_is_found(tmp_path: Path):
    (tmp_path / quote(PLAIN)).mkdir()
    (tmp_path / quote(PLAIN) / "empty").touch()
    hits = Searcher([PLAIN]).in_folders([tmp_path])
    assert [hit.inside for hit in hits] == ["its name"] * 2


def test_files_that_are_older_are_left_out(tmp_path: Path):
    for name, at in (("old", 1000), ("new", 2000)):
        (tmp_path / name).write_text(PLAIN)
        os.utime(tmp_path / name, (at, at))
    assert {hit.path.name for hit in Searcher([PLAIN]).in_folders([tmp_path], since=2000)} == {"new"}


def test_an_answer_of_a_server_is_searched_without_a_file():
    (hit,) = Searcher([OTHER, PLAIN]).in_bytes(gzip.compress(PLAIN.encode()), "GET /metrics")
    assert hit == Hit(PLAIN, "UTF-8", Path("GET /metrics"), "/unpacked")
