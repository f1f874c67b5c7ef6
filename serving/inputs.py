"""Inputs of a bundle: checked rows, prompts, and lists cut into batches without much padding."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

TOKENS_PER_BATCH = 2048
Row = str | tuple[str, str]
Input = str | tuple[str, str] | Mapping[str, Any] | Sequence[Any]  # a row as users give it, for `checked`
Slots = tuple[tuple[str, str], ...]
Messages = tuple[tuple[str, str], ...]  # of a conversation: role and content
MESSAGES = "messages"
ROLES = ("system", "user", "assistant")
NO_MESSAGES = f"a conversation is a list of objects with role ({', '.join(ROLES)}) and content, a text"
NO_ATTRIBUTE = "an attribute is a name with a text, a number or a list of them; write true as 'yes'"


class InputError(ValueError):
    """An input is refused; the message names its index and the reason, never its text."""


class Reading(NamedTuple):
    """Counts of one input's tokens, as far as the model reads them."""

    tokens: int  # without the special ones around every input
    unknown: int  # how many of these tokens stand for something that the tokenizer does not know
    cut: bool  # whether the input goes on where the model stops reading

    @property
    def unknown_share(self) -> float:
        """Share of the tokens that are unknown; 0 without tokens."""
        return self.unknown / self.tokens if self.tokens else 0.0


def unknown_id(tokenizer: Tokenizer) -> int | None:
    """Id of the tokenizer's token for unknown text; None where no text is unknown, as with bytes."""
    model = json.loads(tokenizer.to_str())["model"]
    if (name := model.get("unk_token")) is not None:
        return tokenizer.token_to_id(name)
    return model.get("unk_id")  # Unigram gives the id instead of a name


def reading(encoding: Encoding, unknown: int | None) -> Reading:
    """Counts of one encoded input; `unknown` is the tokenizer's `unknown_id`."""
    tokens = len(encoding) - sum(encoding.special_tokens_mask)
    return Reading(tokens, 0 if unknown is None else encoding.ids.count(unknown), bool(encoding.overflowing))


def checked(
    inputs: Sequence[Input], pairs: bool, attributes: bool = False, redact: Callable[[str], str] = str
) -> list[Row]:
    """`inputs` in the tokenizer's form: texts, or `pairs` of texts; `attributes` allows attributes in place of a text.

    `redact` makes each text what a model may read. A wrong input raises `InputError` naming the index.
    """
    rows = [_row(index, each, pairs, attributes) for index, each in enumerate(inputs)]
    return rows if redact is str else [_redacted(index, each, redact) for index, each in enumerate(rows)]


def slots(attributes: Mapping[Any, Any] | Sequence[Any]) -> Slots:
    """Names and values out of an object, or a list of [name, value]. Raises `ValueError` where it is neither.

    An attribute without a value (null) is not given: Parquet has each for every row. One with several values stands
    there once for each.
    """
    named = []
    for each in attributes.items() if isinstance(attributes, Mapping) else attributes:
        match each:
            case (str() as name, list() as several):
                named += [(name, said) for said in map(_slot, several) if said is not None]
            case (str() as name, value):
                if (said := _slot(value)) is not None:
                    named.append((name, said))
            case _:
                raise ValueError(NO_ATTRIBUTE)
    return tuple(named)


def holds_messages(value: Any) -> bool:
    """Whether a value is a conversation, and no list of attributes."""
    return (
        isinstance(value, list) and bool(value) and all(isinstance(each, Mapping) and "role" in each for each in value)
    )


def messages(value: Sequence[Any]) -> Messages:
    """Roles and contents out of a list of objects, which may say more. Raises `ValueError` where it is none."""
    said = []
    for each in value:
        match each:
            case {"role": str() as role, "content": str() as content} if role in ROLES and content.strip():
                said.append((role, content))
            case _:
                raise ValueError(NO_MESSAGES)
    return tuple(said)


def transcript(said: Messages) -> str:
    """A conversation as one text, for readers and for models that know words only."""
    return "\n".join(f"{role}: {content}" for role, content in said)


def number_text(number: float | Decimal) -> str:
    """A finite number as people write it, the same for whatever type it has: 4.0 is 4, 0.50 is 0.5."""
    if isinstance(number, int):
        return str(number)
    digits = f"{Decimal(repr(number)) if isinstance(number, float) else number:f}"
    short = digits.rstrip("0").rstrip(".") if "." in digits else digits
    return "0" if short == "-0" else short


def _slot(value: Any) -> str | None:
    """The value of an attribute as a text; None where it is not given. Raises `ValueError`."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or math.isinf(value):
        raise ValueError(NO_ATTRIBUTE)
    return None if math.isnan(value) else number_text(value)


def worded(named: Slots) -> str:
    """The text that a model reads for attributes, the same in training and in use."""
    return "; ".join(f"{name}: {said}" for name, said in named)


def prompt(text: str, pair: str | None) -> str:
    """The text that a decoder reads before it writes; the completion starts on a new line."""
    return f"{text}\n" if pair is None else f"{text}\n{pair}\n"


def joined(row: Input) -> str:
    """One text, both texts of a pair or all that was said, joined, for a model that knows words only."""
    if isinstance(row, Mapping) and MESSAGES in row:
        return transcript(messages(row[MESSAGES]))
    return row if isinstance(row, str) else " ".join(part for part in row if part)


def characters(row: Row) -> int:
    """Length of a text, or of both texts of a pair."""
    return len(row) if isinstance(row, str) else sum(map(len, row))


def cut(lengths: Sequence[int], tokens_per_batch: int, padding: float = math.inf) -> Iterator[list[int]]:
    """Indices in batches of like length, each at most `tokens_per_batch` tokens with its padding (or one input).

    No input makes the shorter ones of its batch longer by more than `padding` tokens in all.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):  # each is the longest so far
        length = lengths[index]
        too_many = (len(batch) + 1) * length > tokens_per_batch
        if batch and (too_many or len(batch) * (length - lengths[batch[-1]]) > padding):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _redacted(index: int, row: Row, redact: Callable[[str], str]) -> Row:
    try:
        return redact(row) if isinstance(row, str) else (redact(row[0]), redact(row[1]))
    except ValueError as error:
        raise InputError(f"input {index}: {error}") from None


def _row(index: int, value: Any, pairs: bool, attributes: bool) -> Row:
    parts: Any = value if pairs else (value,)
    if pairs and isinstance(value, Mapping) and value.keys() == {"text", "text_pair"}:
        parts = (value["text"], value["text_pair"])
    if attributes and isinstance(parts, list | tuple):
        parts = [_worded(index, each) for each in parts]
    match parts:
        case (str() as text,) if not pairs:
            return _valid(index, text)
        case (str() as text, str() as second) if pairs:
            return _valid(index, text), _valid(index, second)
    wanted = "an object with the texts text and text_pair" if pairs else "a text"
    raise InputError(f"input {index} is not {wanted}{' (or attributes in place of a text)' if attributes else ''}")


def _worded(index: int, part: Any) -> Any:
    if not isinstance(part, Mapping | list):
        return part
    try:
        named = slots(part)
    except ValueError as error:
        raise InputError(f"input {index}: {error}") from None
    if not named:
        raise InputError(f"input {index}: no attribute has a value; give one, or a text")
    return worded(named)


def _valid(index: int, text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"input {index} holds a lone surrogate, which is not valid text") from None
    return text
