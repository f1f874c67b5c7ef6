"""Rows of files, of folders of files, and of URLs, by the form that a name says."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from configs.given import given, reason
from configs.loader import UsageError
from configs.schema.data import DATA_FILE
from jobs.data.formats import json_lines, parquet
from jobs.data.formats.comma_separated import Reader
from jobs.data.words import listed

LONGEST_LINE_BYTES = 10 << 20
PACKED = {"gz": "gzip", "bz2": "bz2", "xz": "xz"}
KINDS = "a .jsonl, .csv or .parquet file (or .gz, .bz2, .xz of one)"
LAKES = {"_delta_log": "a Delta table", ".hoodie": "a Hudi table"}  # keep rows that were deleted


def is_named(source: str) -> bool:
    """Whether a source, a path or a URL, has the name of a file of rows."""
    return _form(source) is not None


def is_folder(source: str) -> bool:
    """Whether a source is a folder here."""
    return Path(source).is_dir()


def records(source: str, at: str, wanted: Collection[str] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, record) with `where` = 'data.train: file: line 7', for messages; in a folder also the name of the part.

    `wanted` are the columns that are needed, None: all that there are; a record may hold more. Raises `UsageError`.
    """
    for part, place in _parts(source, at):
        with _opened(part, place) as (file, kind):
            if kind == "parquet":
                yield from parquet.records(file, place, wanted)
            elif kind == "csv":
                yield from Reader(_lines(file, place), place, LONGEST_LINE_BYTES)
            else:
                yield from json_lines.records(_lines(file, place), place)


def column_names(source: str, at: str) -> list[str]:
    """Names of the columns; of JSON Lines those of the first object. Raises `UsageError`."""
    for part, place in _parts(source, at):
        with _opened(part, place) as (file, kind):
            if kind == "parquet":
                return parquet.opened(file, place).schema_arrow.names
            if kind == "csv":
                return Reader(_lines(file, place), place, LONGEST_LINE_BYTES).names
            for _, record in json_lines.records(_lines(file, place), place):
                return list(record)
    raise UsageError(f"{at}: holds no rows")


def _form(source: str) -> re.Match[str] | None:
    return DATA_FILE.search(source.split("?")[0].rstrip("/"))


def _parts(source: str, at: str) -> list[tuple[str, str]]:
    """(file, its place for messages) of each file of a source, those of a folder in the order of their numbers."""
    if source.startswith(("http://", "https://")):
        return [(source, at)]
    import fsspec

    with _worded(at):
        system, folder = fsspec.url_to_fs(source)
        if not system.isdir(folder):
            return [(source, at)]
        inside = {posixpath.basename(each["name"].rstrip("/")): each for each in system.ls(folder, detail=True)}
    if lake := next((words for name, words in LAKES.items() if name in inside), None):
        raise UsageError(f"{at}: {lake}, whose files also keep rows that were deleted; export its rows to one file")
    shown = {name: each for name, each in inside.items() if not name.startswith((".", "_"))}
    if below := [name for name, each in shown.items() if each["type"] == "directory"]:
        raise UsageError(f"{at}: holds the folder {listed(below[:1])!r}; put all files of its rows into one folder")
    kinds = {name: form["kind"].lower() if (form := _form(name)) else None for name in shown}
    if strange := [name for name, kind in kinds.items() if kind is None]:
        raise UsageError(f"{at}: {listed(strange[:1])!r} in it is not {KINDS}; take it away")
    if len(set(kinds.values())) > 1:
        raise UsageError(f"{at}: holds files of several forms ({', '.join(sorted(set(map(str, kinds.values()))))})")
    return [(system.unstrip_protocol(shown[name]["name"]), f"{at}: {name}") for name in sorted(shown, key=by_number)]


def by_number(name: str) -> list[tuple[int, str]]:
    """Sorts part-2 before part-10, as programs write them."""
    return [(int(each), "") if each.isdecimal() else (-1, each) for each in re.split(r"(\d+)", name)]


@contextmanager
def _opened(source: str, at: str) -> Iterator[tuple[Any, str]]:
    """The bytes of a file and its form; every error while it is read is a `UsageError`."""
    import fsspec

    form = _form(source)
    assert form is not None
    with _worded(at), fsspec.open(source, "rb", compression=PACKED.get((form["packed"] or "").lower())) as file:
        yield file, form["kind"].lower()


@contextmanager
def _worded(at: str) -> Iterator[None]:
    """A missing file is worded in its own way, what else fails as `given` does: cut gzip, a lost connection."""
    with given(at):
        try:
            yield
        except FileNotFoundError as error:
            cause = error.__cause__  # fsspec calls a URL missing for every bad answer, and keeps the reason here
            raise UsageError(f"{at}: cannot be read: {reason(cause)}" if cause else f"{at}: no such file") from None


def _lines(file: Iterable[bytes], at: str) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        if len(line) > LONGEST_LINE_BYTES:
            raise UsageError(f"{at}: line {number}: longer than {LONGEST_LINE_BYTES} bytes")
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{at}: line {number}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
