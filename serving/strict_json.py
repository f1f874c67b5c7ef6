"""JSON as RFC 8259 and I-JSON (RFC 7493) have it: readers of a body may not understand it in two ways.

pydantic's parser takes more: NaN counts as not given, 1e999 is infinite, and of equal keys the last one wins.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

LARGEST = 2**63 - 1


class NotStrict(ValueError):
    """Why a body that a parser would take is refused, in words that repeat nothing of it."""


def check_strict(body: bytes) -> None:
    """Raise `NotStrict`. What is no JSON at all passes, and what is nested too deeply: its parser says where."""
    try:
        json.loads(body, object_pairs_hook=_once, parse_constant=_no_number, parse_int=_whole, parse_float=_finite)
    except NotStrict:
        raise
    except (RecursionError, ValueError):
        return


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    named = dict(pairs)
    if len(named) < len(pairs):
        raise NotStrict("holds a key twice")
    return named


def _no_number(_: str) -> NoReturn:
    raise NotStrict("holds NaN or Infinity, which are no JSON")


def _whole(digits: str) -> int:
    if len(digits) > len(str(LARGEST)) + 1 or not -LARGEST - 1 <= (number := int(digits)) <= LARGEST:
        raise NotStrict("holds a whole number of more than 64 bits")
    return number


def _finite(digits: str) -> float:
    if math.isinf(number := float(digits)):
        raise NotStrict("holds a number too large for a double")
    return number
