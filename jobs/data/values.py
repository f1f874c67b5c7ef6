"""Values of a record, checked: one meaning whatever file they come from.

A CSV field is a text, where JSON and Parquet also know numbers and truths. So a class that is a number or a truth has
one name however it is stored: 4, 4.0 and "4.0" are the class 4, True and "TRUE" the class true. A text to generate
stays as it is written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from configs.loader import UsageError
from jobs.data.words import no_column
from serving.inputs import Messages, Slots, holds_messages, messages, number_text, slots, worded

NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:e[+-]\d+)?", re.ASCII)  # as programs write numbers; 007 is a name


def name_of(column: str, names: Iterable[str]) -> str | None:
    """The one of `names` that is `column`, up to spaces and byte order marks around it; None where there is none."""
    if column in names:
        return column
    return next((name for name in names if _bare(name) == _bare(column)), None)


def input_of(record: dict[str, Any], column: str, where: str) -> tuple[str, Slots]:
    """(text, its attributes): a text as it is, or the text of attributes, an object or a list of [name, value]."""
    value = value_of(record, column, where)
    if not isinstance(value, dict | list):
        return _text(value, column, where), ()
    try:
        named = slots(value)
    except ValueError as error:
        raise UsageError(f"{where}: column {column!r}: {error}") from None
    for name, _ in named:
        _text(name, column, where)
    return _text(worded(named), column, where), named


def conversation_of(record: dict[str, Any], column: str, where: str) -> Messages:
    """The conversation of a record; nothing where its column holds something else."""
    value = record.get(name_of(column, record) or column)
    if not isinstance(value, list) or not holds_messages(value):
        return ()
    try:
        said = messages(value)
    except ValueError as error:
        raise UsageError(f"{where}: column {column!r}: {error}") from None
    for _, content in said:
        _whole(content, column, where)
    return said


def label_of(record: dict[str, Any], column: str, where: str) -> str:
    """The name of the class of a record."""
    value = value_of(record, column, where)
    if isinstance(value, str) and not value.strip():
        raise UsageError(f"{where}: column {column!r} is empty; remove the row or fill it")
    name = class_name(value)
    if name is None:
        raise UsageError(
            f"{where}: column {column!r} holds {_kind(value)}; a class is a text, a number, true or false: store it "
            "as a text"
        )
    return _whole(name, column, where)


def answer_of(record: dict[str, Any], column: str, where: str) -> str:
    """The text to generate for a record."""
    value = value_of(record, column, where)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _text(value, column, where).strip()


def text_of(record: dict[str, Any], column: str, where: str) -> str:
    """The text or number of a further column, as it is written; "" where it is missing."""
    value = _optional(record, column, where)
    if value is None or isinstance(value, str):
        return _whole(value or "", column, where)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or not math.isfinite(value):
        raise UsageError(f"{where}: column {column!r} holds {_kind(value)}; text is expected")
    return number_text(value)


def slice_of(record: dict[str, Any], column: str, where: str) -> str:
    """The value of a slice of test rows; "" where it is missing."""
    value = _optional(record, column, where)
    if isinstance(value, dict | list | bytes):
        raise UsageError(
            f"{where}: column {column!r} holds {_kind(value)}; data.slices takes texts, numbers, yes and no"
        )
    name = class_name(value)
    return "" if value is None else _whole(str(value) if name is None else name, column, where)


def class_name(value: Any) -> str | None:
    """What a text, a number or a truth is called among classes; None for other values."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | Decimal):
        return number_text(value) if math.isfinite(value) else None
    if not isinstance(value, str):
        return None
    text = value.strip()
    if text.lower() in ("true", "false"):
        return text.lower()
    return number_text(Decimal(text)) if NUMBER.fullmatch(text) and not text.isdigit() else text


def spelled(record: dict[str, Any], column: str) -> str:
    """A label as it is written, where it is a text; its class may be called otherwise."""
    value = record[name_of(column, record) or column]
    return value.strip() if isinstance(value, str) else class_name(value) or ""


def _bare(name: str) -> str:
    return name.replace("\ufeff", "").strip()


def value_of(record: dict[str, Any], column: str, where: str) -> Any:
    """The value of a column. Raises `UsageError` where there is none."""
    value = _optional(record, column, where)
    if value is None:
        raise UsageError(f"{where}: column {column!r} has no value; remove the row or fill it")
    return value


def _optional(record: dict[str, Any], column: str, where: str) -> Any:
    name = name_of(column, record)
    if name is None:
        raise no_column(where, column, record)
    value = record[name]
    return None if isinstance(value, float) and value != value else value


def _text(value: Any, column: str, where: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{where}: column {column!r} holds {_kind(value)}; text is expected")
    if not value.strip():
        raise UsageError(f"{where}: column {column!r} is empty; remove the row or fill it")
    return _whole(value, column, where)


def _kind(value: Any) -> str:
    """The type of a value, with its article; the value may be what a customer wrote."""
    if isinstance(value, float | Decimal) and not math.isfinite(value):
        return "a number that is not finite"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _whole(text: str, column: str, where: str) -> str:
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise UsageError(f"{where}: column {column!r} holds half a character (a lone surrogate); remove it")
    return text
