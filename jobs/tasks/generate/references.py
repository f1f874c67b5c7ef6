"""The texts that an answer is held against."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from jobs.data.source import Row


def references_of(rows: Sequence[Row]) -> list[list[str]]:
    """References of each row: the different texts of all rows with its prompt."""
    by_prompt: defaultdict[tuple[str, str | None], list[str]] = defaultdict(list)
    for row in rows:
        if row.label not in by_prompt[row.text, row.pair]:
            by_prompt[row.text, row.pair].append(row.label)
    return [by_prompt[row.text, row.pair] for row in rows]


def streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """References as sacrebleu takes them: the first of each row, then the second of each; None where none is left."""
    most = max(map(len, references))
    return [[each[index] if index < len(each) else None for each in references] for index in range(most)]
