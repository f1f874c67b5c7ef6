"""CSV with a header, which says what stands between two fields: a comma, a semicolon or a tab, and spaces or none."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from typing import Any

from configs.loader import UsageError
from jobs.data.words import given_twice

SEPARATORS = ",;\t"  # Excel writes semicolons where a comma stands in numbers
LONE_RETURN = "new-line character seen in unquoted field"  # how the reader calls it


class Reader:
    """The rows after a checked header."""

    def __init__(self, lines: Iterator[str], at: str, longest: int) -> None:
        """`longest`: characters of a field. Raises `UsageError`."""
        csv.field_size_limit(longest)  # the library's own is 131,072, shorter than some descriptions
        self._at = at
        first = next(lines, "")
        self._separator = max(SEPARATORS, key=lambda each: first.count(each) and len(_fields(first, each)))
        names = _fields(first, self._separator)
        self._is_spaced = any(name != name.strip() for name in names)
        self._rows = csv.reader(
            itertools.chain([first], lines) if first else lines,
            delimiter=self._separator,
            skipinitialspace=self._is_spaced,
            strict=True,
        )
        self.names = self._next() or []
        if twice := given_twice(self.names):
            raise UsageError(f"{at}: line 1: {twice}")

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(where, record) of each line that is not blank."""
        while (row := self._next()) is not None:
            where = f"{self._at}: line {self._rows.line_num}"
            if row and len(row) != len(self.names):
                raise UsageError(
                    f"{where}: not {len(self.names)} fields as in the header; quote the {_called(self._separator)}, "
                    "without a space before the quote"
                )
            if row:
                yield where, dict(zip(self.names, row, strict=True))

    def _next(self) -> list[str] | None:
        try:
            row = next(self._rows, None)
        except csv.Error as error:
            said = str(error)
            if said.startswith(LONE_RETURN):
                said = "a carriage return ends its lines (classic Mac OS); save the file with line ends of today"
            raise UsageError(f"{self._at}: line {max(1, self._rows.line_num)}: not CSV: {said}") from None
        return [field.strip() for field in row] if row and self._is_spaced else row


def _fields(line: str, separator: str) -> list[str]:
    """The fields of a header, as well as they can be told from its first line."""
    try:
        return next(csv.reader([line.rstrip("\r\n")], delimiter=separator), [])
    except csv.Error:
        return []


def _called(separator: str) -> str:
    return {",": "commas", ";": "semicolons", "\t": "tabs"}[separator]
