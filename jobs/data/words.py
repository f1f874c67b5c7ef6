"""Words of messages about rows: they hold no text of a customer, and no part of an address that may not be shown."""

from __future__ import annotations

from collections.abc import Iterable

from configs.shown_urls import shown_urls

LONGEST_NAME = 40  # characters of a column's name; a file without a header has texts in its place


def reason(error: BaseException) -> str:
    """The first line of an error's message, or its type."""
    return shown_urls(next(iter(str(error).splitlines()), "")) or type(error).__name__


def listed(names: Iterable[object]) -> str:
    """Column names for a message; a long name is a customer's text in a file without header, and is not shown."""
    words = map(str, names)
    return ", ".join(word if len(word) <= LONGEST_NAME else f"(a name of {len(word)} characters)" for word in words)
