"""Rows of files and URLs, by the form that their name says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from configs.loader import UsageError
from jobs.data.formats import comma_separated, json_lines, parquet
from jobs.data.words import reason

LONGEST_LINE_BYTES = 10 << 20


def records(source: str, form: re.Match[str], at: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, record) with `where` = 'data.train: file: line 7', for messages; `form`: a match of `DATA_FILE`."""
    with _opened(source, form, at) as file:
        if form["kind"] == "parquet":
            yield from parquet.records(file, at)
        elif form["kind"] == "csv":
            yield from comma_separated.records(_lines(file, at), at)
        else:
            yield from json_lines.records(_lines(file, at), at)


def column_names(source: str, form: re.Match[str], at: str) -> list[str]:
    """Names of the columns; of JSON Lines those of the first object. Raises `UsageError`."""
    with _opened(source, form, at) as file:
        if form["kind"] == "parquet":
            return parquet.opened(file, at).schema_arrow.names
        if form["kind"] == "csv":
            return list(comma_separated.reader_of(_lines(file, at), at).fieldnames or ())
        for _, record in json_lines.records(_lines(file, at), at):
            return list(record)
    raise UsageError(f"{at}: holds no rows")


@contextmanager
def _opened(source: str, form: re.Match[str], at: str) -> Iterator[Any]:
    """The bytes of a file; every error while it is read is a `UsageError`."""
    import fsspec

    try:
        with fsspec.open(source, "rb", compression="gzip" if form["gzip"] else None) as file:
            yield file
    except UsageError:
        raise
    except FileNotFoundError as error:
        cause = error.__cause__  # fsspec calls a URL missing for every bad answer, and keeps the reason here
        raise UsageError(f"{at}: cannot be read: {reason(cause)}" if cause else f"{at}: no such file") from None
    except Exception as error:  # noqa: BLE001 - cut gzip, damaged pages, a lost connection: nothing in common
        raise UsageError(f"{at}: cannot be read: {reason(error)}") from None


def _lines(file: Iterable[bytes], at: str) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        if len(line) > LONGEST_LINE_BYTES:
            raise UsageError(f"{at}: line {number}: longer than {LONGEST_LINE_BYTES} bytes")
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{at}: line {number}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
