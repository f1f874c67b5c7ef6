"""JSON Lines: one object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from configs.loader import UsageError
from jobs.data.words import reason


def records(lines: Iterator[str], at: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, record) of each line that is not blank. Raises `UsageError`."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{at}: line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            said = "nested too deep" if isinstance(error, RecursionError) else getattr(error, "msg", reason(error))
            raise UsageError(f"{where}: not JSON ({said}); one JSON object a line is expected") from None
        if not isinstance(record, dict):
            raise UsageError(f"{where}: a JSON {type(record).__name__}; one JSON object a line is expected")
        yield where, record
