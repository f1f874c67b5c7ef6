"""What a bundle is asked: checked rows, prompts, and lists cut into batches without much padding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

TOKENS_PER_BATCH = 2048
Row = str | tuple[str, str]
Input = str | tuple[str, str] | Mapping[str, str]


class InputError(ValueError):
    """An input is refused; the message names its index and the reason, never its text."""


def checked(inputs: Sequence[Input], pairs: bool) -> list[Row]:
    """`inputs` in the tokenizer's form: texts, or pairs of texts. A wrong one raises `InputError` naming the index."""
    return [_row(index, each, pairs) for index, each in enumerate(inputs)]


def prompt(text: str, pair: str | None) -> str:
    """What a decoder reads before it writes; the completion starts on a new line."""
    return f"{text}\n" if pair is None else f"{text}\n{pair}\n"


def cut(lengths: Sequence[int], tokens_per_batch: int) -> Iterator[list[int]]:
    """Indices in batches of like length, each at most `tokens_per_batch` tokens with its padding (or one input)."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[index] > tokens_per_batch:  # this input is the longest so far
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _row(index: int, value: Any, pairs: bool) -> Row:
    parts: Any = value if pairs else (value,)
    if pairs and isinstance(value, Mapping) and value.keys() == {"text", "text_pair"}:
        parts = (value["text"], value["text_pair"])
    match parts:
        case (str() as text,) if not pairs:
            return _valid(index, text)
        case (str() as text, str() as second) if pairs:
            return _valid(index, text), _valid(index, second)
    wanted = "an object with the texts text and text_pair" if pairs else "a text"
    raise InputError(f"input {index} is not {wanted}")


def _valid(index: int, text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"input {index} holds a lone surrogate, which is not valid text") from None
    return text
