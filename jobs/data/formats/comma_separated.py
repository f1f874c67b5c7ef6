"""CSV with a header."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from typing import Any

from configs.loader import UsageError


def records(lines: Iterator[str], at: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, record) of each line after the header. Raises `UsageError`."""
    reader = reader_of(lines, at)
    try:
        for record in reader:
            where = f"{at}: line {reader.line_num}"
            if None in record or None in record.values():
                fields = len(reader.fieldnames or ())
                raise UsageError(f"{where}: not {fields} fields as in the header; quote the commas")
            yield where, record
    except csv.Error as error:
        raise UsageError(f"{at}: line {reader.reader.line_num}: not CSV: {error}") from None


def reader_of(lines: Iterator[str], at: str) -> csv.DictReader[str]:
    """A reader of the rows, after a checked header."""
    reader = csv.DictReader(lines, strict=True)
    try:
        names = reader.fieldnames or ()
    except csv.Error as error:
        raise UsageError(f"{at}: line 1: not CSV: {error}") from None
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UsageError(f"{at}: line 1: column {twice[0]!r} is given twice; rename one")
    return reader
