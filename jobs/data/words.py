"""Words of messages about rows: they hold no text of a customer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from configs.loader import UsageError

LONGEST_NAME = 40  # characters of a column's name; a file without a header has texts in its place


def listed(names: Iterable[object]) -> str:
    """Column names for a message; a long name is a customer's text in a file without header, and is not shown."""
    words = map(str, names)
    return ", ".join(word if len(word) <= LONGEST_NAME else f"(a name of {len(word)} characters)" for word in words)


def no_column(where: str, column: str, names: Iterable[object]) -> UsageError:
    """The error of a record, or of a file, without a column that the recipe names."""
    return UsageError(f"{where}: no column {column!r}; columns here: {listed(names)}")


def given_twice(names: Sequence[str]) -> str:
    """Says that two columns have one name; "" where they have not."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    return f"column {listed(twice[:1])!r} is given twice; rename one" if twice else ""
