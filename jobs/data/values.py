"""Values of a record, checked: the same meaning whatever file they come from."""

from __future__ import annotations

from typing import Any

from configs.loader import UsageError
from jobs.data.words import listed
from serving.inputs import Slots, slots, worded


def input_of(record: dict[str, Any], column: str, where: str) -> tuple[str, Slots]:
    """(text, its attributes): a text as it is, or the text of attributes, an object or a list of [name, value]."""
    value = _value(record, column, where)
    if not isinstance(value, dict | list):
        return _text(value, column, where), ()
    try:
        named = slots(value)
    except ValueError as error:
        raise UsageError(f"{where}: column {column!r}: {error}") from None
    for name, _ in named:
        _text(name, column, where)
    return _text(worded(named), column, where), named


def label_of(record: dict[str, Any], column: str, where: str) -> str:
    """The class of a record, or its text to generate."""
    value = _value(record, column, where)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | str):
        label = str(value).strip()
        if label:
            return _whole(label, column, where)
        raise UsageError(f"{where}: column {column!r} is empty; remove the row or fill it")
    kind = type(value).__name__
    raise UsageError(f"{where}: column {column!r} holds a {kind}; a class name or whole number is expected")


def slice_of(record: dict[str, Any], column: str, where: str) -> str:
    """The value of a slice of test rows; "" where it is missing."""
    value = _optional(record, column, where)
    if isinstance(value, dict | list | bytes):
        raise UsageError(
            f"{where}: column {column!r} holds a {type(value).__name__}; data.slices takes texts, numbers, yes and no"
        )
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else _whole(str(value).strip(), column, where)


def _value(record: dict[str, Any], column: str, where: str) -> Any:
    value = _optional(record, column, where)
    if value is None:
        raise UsageError(f"{where}: column {column!r} has no value; remove the row or fill it")
    return value


def _optional(record: dict[str, Any], column: str, where: str) -> Any:
    if column not in record:
        raise UsageError(f"{where}: no column {column!r}; columns here: {listed(record)}")
    value = record[column]
    return None if isinstance(value, float) and value != value else value


def _text(value: Any, column: str, where: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{where}: column {column!r} holds a {type(value).__name__}; text is expected")
    if not value.strip():
        raise UsageError(f"{where}: column {column!r} is empty; remove the row or fill it")
    return _whole(value, column, where)


def _whole(text: str, column: str, where: str) -> str:
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise UsageError(f"{where}: column {column!r} holds half a character (a lone surrogate); remove it")
    return text
