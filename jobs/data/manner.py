"""How the answer of a row is written: its style, as a column says it, and its length."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from configs.loader import UsageError
from configs.schema.data import DataSpec
from jobs.data.values import text_of
from serving import units
from serving.inputs import Slots
from serving.manner import FIELDS, LENGTHS

STYLE, LENGTH = FIELDS
MOST_STYLES = 50
WITHOUT = 4  # of so many training rows one does not say a field, so that a request need not


def manner_of(data: DataSpec, record: dict[str, Any], answer: str, where: str) -> Slots:
    """Style and length of an answer, as far as the recipe asks for them. Raises `UsageError`."""
    said: list[tuple[str, str]] = []
    if data.style is not None and (style := text_of(record, data.style, where).strip()):
        said.append((STYLE, style))
    if data.lengths:
        words = len(units.letters(answer))
        said.append((LENGTH, LENGTHS[sum(words > most for most in data.lengths)]))
    return tuple(said)


def thinned(manner: Slots, row: int) -> Slots:
    """What training row number `row` says of it: without each field in a `WITHOUT`th of the rows."""
    return tuple(each for each in manner if random.Random(f"{each[0]} {row}").random() * WITHOUT >= 1)


def taught(manners: Iterable[Slots], data: DataSpec, at: str) -> dict[str, list[str]]:
    """{field: values that rows have of it, lengths from the shortest}. Raises `UsageError`."""
    seen: dict[str, set[str]] = {}
    for field, value in (pair for manner in manners for pair in manner):
        seen.setdefault(field, set()).add(value)
    if data.style is not None and not 2 <= len(styles := seen.get(STYLE, set())) <= MOST_STYLES:
        raise UsageError(
            f"data.style: {data.style!r}: {at}: {len(styles)} styles; 2 to {MOST_STYLES} can be taught, name another "
            "column"
        )
    if LENGTH in seen and len(seen[LENGTH]) < len(LENGTHS):
        missing = next(name for name in LENGTHS if name not in seen[LENGTH])
        raise UsageError(f"data.lengths: {data.lengths}: {at}: no answer is {missing}; give other numbers of words")
    return {
        field: [each for each in LENGTHS if each in values] if field == LENGTH else sorted(values)
        for field, values in seen.items()
    }
