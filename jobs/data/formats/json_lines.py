"""JSON Lines: one object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from configs.given import reason
from configs.loader import UsageError
from jobs.data.words import given_twice


def records(lines: Iterator[str], at: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, record) of each line that is not blank. Raises `UsageError`."""
    decode = json.JSONDecoder(object_pairs_hook=_object).decode
    for number, line in enumerate(lines, 1):
        if not (line := line.strip()):
            continue
        where = f"{at}: line {number}"
        try:
            record = decode(line)
        except _TwiceError as error:
            raise UsageError(f"{where}: {error}") from None
        except (ValueError, RecursionError) as error:
            said = "nested too deep" if isinstance(error, RecursionError) else getattr(error, "msg", reason(error))
            raise UsageError(f"{where}: not JSON ({said}); one JSON object a line is expected") from None
        if not isinstance(record, dict):
            raise UsageError(f"{where}: a JSON {type(record).__name__}; one JSON object a line is expected")
        yield where, record


class _TwiceError(Exception):
    """An object has one name twice: the library would keep the last of its values."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise _TwiceError(given_twice([name for name, _ in pairs]))
    return record
