"""Times of events as seconds since 1970 in UTC, however a file writes them."""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

DAY = 86_400  # seconds
LARGEST = 32_503_680_000  # seconds: the year 3000
NUMBER = re.compile(r"-?\d+(?:\.\d+)?", re.ASCII)
COMPACT_DAY = re.compile(r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])", re.ASCII)
LONGEST_SHOWN = 40  # characters
REMEDY = "write it as 2026-11-30, 2026-11-30 18:05:00 or seconds since 1970"


def seconds_of(value: Any) -> float:
    """The seconds of a time: a number of them, a text of ISO 8601, or a date of Parquet; UTC where no zone is given.

    Raises `ValueError` with the value and what would work.
    """
    if isinstance(value, str):
        return _of_text(value.strip())
    if isinstance(value, datetime):
        return _of_datetime(value)
    if isinstance(value, date):
        return start_of(value)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError(f"a {type(value).__name__} is no time; {REMEDY}")
    return _of_number(value)


def start_of(day: date) -> float:
    """The seconds at which a day begins in UTC."""
    return datetime.combine(day, time(), UTC).timestamp()


def _of_text(text: str) -> float:
    if NUMBER.fullmatch(text):
        return _of_number(Decimal(text))
    try:
        return _of_datetime(datetime.fromisoformat(text))
    except ValueError:
        raise ValueError(f"{_shown(text)} is no time; {REMEDY}") from None


def _of_datetime(value: datetime) -> float:
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()


def _of_number(value: float | Decimal) -> float:
    if not math.isfinite(value):
        raise ValueError(f"a number that is not finite is no time; {REMEDY}")
    if abs(value) > LARGEST:
        raise ValueError(f"{value} is after the year 3000 in seconds since 1970; divide milliseconds by 1000")
    if COMPACT_DAY.fullmatch(str(value)):
        day = f"{value:08}"
        raise ValueError(f"{value} may be a day or seconds since 1970; write days as {day[:4]}-{day[4:6]}-{day[6:]}")
    return float(value)


def _shown(text: str) -> str:
    return repr(text) if len(text) <= LONGEST_SHOWN else f"a text of {len(text)} characters"
