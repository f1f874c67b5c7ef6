"""Rows out of files, URLs, the Hub or the embedded generator, checked one by one.

Every fault of a row is a `UsageError` that names the source, the line and the column, never the text.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from cluster.session import JobError
from configs.loader import UsageError
from configs.places import resolved
from configs.schema.data import EMBEDDED, HUB_ID, DataSpec
from configs.shown_urls import shown_urls
from jobs.data import hub
from jobs.data.formats import files
from jobs.data.leaks import Hashes, same_text
from jobs.data.manner import manner_of, thinned
from jobs.data.values import answer_of, conversation_of, input_of, label_of, name_of, slice_of, spelled, text_of
from jobs.data.words import no_column
from serving import units
from serving.inputs import MESSAGES, Input, Messages, Slots, transcript
from serving.manner import in_manner
from serving.redaction import redactor

Split = Literal["train", "validation", "test", "unlabelled"]
SPOT = re.compile(r"(?P<unit>line|row) (?P<number>\d+)")  # in a file; in a folder it begins with the name of a part
LONGEST_LABEL, FEW_LABELS = 60, 10  # characters; number of different labels that need not repeat
GENERATED = ("text", "label")  # columns of the embedded generator
HELD_AGAINST: dict[Split, tuple[Split, ...]] = {  # splits with which a split may share no text
    "train": ("validation", "test"),
    "unlabelled": ("validation", "test"),
    "validation": ("test",),
    "test": (),
}

log = logging.getLogger(__name__)


class Row(NamedTuple):
    """One example; `pair` is None unless the recipe names a second text column.

    `label` is the class, or the text to generate, and empty in an unlabelled row. `slots` are the names and values of
    attributes among the inputs. `slices`, in test rows only, are the values of the columns `data.slices`; "" stands for
    a missing value.
    """

    text: str
    pair: str | None
    label: str
    slots: Slots = ()
    slices: tuple[str, ...] = ()
    messages: Messages = ()  # where `text` is a conversation: what is said before the label
    manner: Slots = ()  # style and length of the label that `text` begins with

    @property
    def input(self) -> Input:
        """What a bundle is asked: the text, both texts, or the conversation."""
        if self.messages:
            return {MESSAGES: [{"role": role, "content": content} for role, content in self.messages]}
        return self.text if self.pair is None else (self.text, self.pair)


class _Inputs(NamedTuple):
    """The inputs of a row, with its record."""

    where: str  # 'data.train: file: line 7'
    line: tuple[str, int]  # lines or rows, and the row's number; in a folder the number in all its files
    record: dict[str, Any]
    text: str
    pair: str | None
    slots: Slots
    messages: Messages
    answer: str | None  # that ends the conversation, where the label is read from there


def rows(data: DataSpec, split: Split, seen: dict[Split, Hashes] | None = None) -> Iterator[Row]:
    """The rows of one split, in their order; `data.on_leak` = drop leaves out texts that `HELD_AGAINST` forbids.

    `seen` holds the hashes of splits that were read before, and receives those of this split.
    """
    return (row for row, _ in rows_with(data, split, (), seen))


def rows_with(
    data: DataSpec, split: Split, further: Sequence[str], seen: dict[Split, Hashes] | None = None
) -> Iterator[tuple[Row, tuple[str, ...]]]:
    """The `rows` of one split, each with the texts of `further` columns; "" where a value is missing."""
    columns = data.slices if split == "test" else ()
    label_in = answer_of if data.label_is_text else label_of
    redact = redactor(data.redaction)
    style = () if data.style is None else (data.style,)
    wanted = (*(() if split == "unlabelled" else (data.label,)), *style, *columns, *further)
    spellings: dict[str, set[str]] = {}  # of classes, in the rows that make them
    mine = None if seen is None else seen.setdefault(split, Hashes())
    forbidden = _held_against(data, split, seen or {}) if data.on_leak == "drop" else set[int]()
    is_empty = True
    for inputs in _inputs(data, split, wanted):
        if forbidden and same_text(inputs.text, inputs.pair) in forbidden:
            if mine is not None:
                mine.leave_out(*inputs.line)
            continue
        is_empty = False
        slices = tuple(slice_of(inputs.record, column, inputs.where) for column in columns)
        label = inputs.answer
        if label is None:
            label = "" if split == "unlabelled" else label_in(inputs.record, data.label, inputs.where)
            label = _redacted(label, inputs.where, redact) if data.label_is_text else label
        if mine is not None:
            mine.add(inputs.text, inputs.pair, label, *inputs.line)
            if split == "train":
                spellings.setdefault(label, set()).add(label if inputs.answer else spelled(inputs.record, data.label))
        texts = tuple(text_of(inputs.record, column, inputs.where) for column in further)
        manner = manner_of(data, inputs.record, label, inputs.where)
        if split == "train":
            manner = thinned(manner, inputs.line[1])
        text = in_manner(inputs.text, manner)
        yield Row(text, inputs.pair, label, inputs.slots, slices, inputs.messages, manner), texts
    if is_empty:
        others = " and ".join(f"data.{other}" for other in HELD_AGAINST[split])
        raise UsageError(f"{place(data, split)}: data.on_leak=drop leaves no row: all texts are those of {others}")
    if several := [sorted(each) for each in spellings.values() if len(each) > 1]:
        words = " or ".join(map(repr, several[0]))
        log.warning("%s: %d classes are written in several ways, such as %s", place(data, split), len(several), words)


def hashes(data: DataSpec, split: Split) -> Hashes:
    """Hashes of the texts of a split; labels are not looked at, and nothing else is kept."""
    texts = Hashes()
    for inputs in _inputs(data, split):
        texts.add(inputs.text, inputs.pair, "", *inputs.line)
    return texts


def has_test(data: DataSpec) -> bool:
    """Whether there are test rows of the kind of the training rows."""
    return data.test is not None and not data.test == EMBEDDED != data.train


def _held_against(data: DataSpec, split: Split, seen: Mapping[Split, Hashes]) -> set[int]:
    others: list[Split] = [each for each in HELD_AGAINST[split] if each != "test" or has_test(data)]
    return {text for each in others for text in (seen.get(each) or hashes(data, each)).texts}


def _inputs(data: DataSpec, split: Split, wanted: Sequence[str] = ()) -> Iterator[_Inputs]:
    """The inputs of each row; its record also has the columns `wanted`."""
    source = source_of(data, split)
    if source is None:
        raise UsageError(f"data.{split}: missing; give a file, URL or Hub id")
    number, at, redact = 0, place(data, split), redactor(data.redaction)
    wanted = (data.text, *(() if data.text_pair is None else (data.text_pair,)), *wanted)
    for number, (where, record) in enumerate(_records(source, split, at, wanted), 1):
        said, answer = _conversation(data, record, where)
        said = tuple((role, _redacted(content, where, redact)) for role, content in said)
        answer = answer and _redacted(answer, where, redact)
        text, named = (transcript(said), ()) if said else input_of(record, data.text, where)
        pair, more = (None, ()) if data.text_pair is None else input_of(record, data.text_pair, where)
        spot = SPOT.fullmatch(where.removeprefix(f"{at}: "))
        line = (f"{spot['unit']}s", int(spot["number"])) if spot else ("rows", number)
        text, pair = _redacted(text, where, redact), pair and _redacted(pair, where, redact)
        slots = tuple((name, _redacted(value, where, redact)) for name, value in named + more)
        yield _Inputs(where, line, record, text, pair, slots, said, answer)
    if not number:
        raise UsageError(f"{at}: holds no rows")


def _redacted(text: str, where: str, redact: Callable[[str], str]) -> str:
    try:
        return redact(text)
    except ValueError as error:
        raise UsageError(f"{where}: {error}; let it need less") from None


def _conversation(data: DataSpec, record: dict[str, Any], where: str) -> tuple[Messages, str | None]:
    """(what is said before the answer, the answer where it ends the conversation); nothing where there is none."""
    said = conversation_of(record, data.text, where) if data.label_is_text else ()
    if not said or data.label != data.text:
        return said, None
    *before, (role, answer) = said
    if role != "assistant" or not before:
        raise UsageError(
            f"{where}: column {data.text!r}: its last message is by role {role!r} and {len(before)} stand before it; "
            "an answer of the assistant to at least one is learned, or name its column in data.label"
        )
    return tuple(before), answer.strip()


def asked_of(data: DataSpec, record: dict[str, Any], where: str, has_turns: bool) -> Any:
    """What a request asks about a record: a text, both texts, or the conversation before its last answer.

    `has_turns`: whether the bundle takes conversations; to others they are texts. Raises `UsageError`.
    """
    said = conversation_of(record, data.text, where) if data.label_is_text else ()
    if said and said[-1][0] == "assistant":
        said = said[:-1]
        if not said:
            raise UsageError(f"{where}: column {data.text!r}: nothing is said before the answer of the assistant")
    if said and has_turns:
        return {MESSAGES: [{"role": role, "content": content} for role, content in said]}
    text = transcript(said) if said else input_of(record, data.text, where)[0]
    if data.text_pair is None:
        return text
    return {"text": text, "text_pair": input_of(record, data.text_pair, where)[0]}


class Sample(NamedTuple):
    """The rows that a figure is measured on."""

    rows: int
    fingerprint: str  # SHA-256 of their texts and labels


def told(row: Row) -> bytes:
    """Texts, label and attributes of a row as bytes, for a fingerprint of many rows."""
    return json.dumps([row.text, row.pair, row.label, row.slots, *([row.messages] if row.messages else [])]).encode()


def sample(rows: Sequence[Row]) -> Sample:
    """Number and fingerprint of rows, in their order."""
    return Sample(len(rows), hashlib.sha256(b"".join(map(told, rows))).hexdigest())


def check_unchanged(rows: Sequence[Row], expected: Sample, data: DataSpec, split: Split) -> None:
    """Raise `JobError` where the rows of a split have changed since they were prepared: figures would not compare."""
    if sample(rows) == expected:
        return
    what = f"{expected.rows} rows then, {len(rows)} now"
    if len(rows) == expected.rows:
        what = f"{len(rows)} rows as then, with other texts or labels"
    raise JobError(
        f"{place(data, split)}: changed since its rows were prepared ({what}); put it back to go on, or run the same "
        "command again to begin with what it holds now"
    )


def check_source(data: DataSpec, split: Split, further: Sequence[str] = ()) -> None:
    """Refuse a source that cannot hold the rows of a split, by its name and, in a local file, by its columns' names.

    `further`: columns that are needed, too. No row is read, but for the keys of the first object in JSON Lines; no URL
    is opened.
    """
    source = source_of(data, split)
    assert source is not None
    at = place(data, split)
    kind = _kind(source, split, at)
    if isinstance(kind, re.Match):
        hub.check(kind["id"], kind["revision"], at)
    elif kind == "generator" or "://" not in source:
        there = GENERATED if kind == "generator" else files.column_names(source, at)
        slices = data.slices if split == "test" else ()
        for column in (data.text, data.text_pair, data.label, data.style, *slices, *further):
            if column is not None and name_of(column, there) is None:
                raise no_column(at, column, there)


def source_of(data: DataSpec, split: Split) -> str | None:
    """The source of a split, out of the environment where the recipe says so. Raises `UsageError`."""
    source = getattr(data, split)
    return source and resolved(source, f"data.{split}")


def place(data: DataSpec, split: Split) -> str:
    """'data.train: file', the beginning of messages; a URL without what may not be shown."""
    return f"data.{split}: {shown_urls(str(getattr(data, split)))}"


def shown(label: str, labels: Sequence[str]) -> str:
    """A label for a message; only row and length where it looks like a text. `labels` are those of all rows.

    The labels are customers' words where `data.label` names a column of texts.
    """
    kinds = len(set(labels))
    is_long = " " in label or units.longer_than_a_word(label)
    hardly_repeat = 2 * kinds > len(labels) and (kinds > FEW_LABELS or is_long)
    if hardly_repeat or (is_long and labels.count(label) == 1) or len(label) > LONGEST_LABEL:
        return f"of row {labels.index(label) + 1} ({len(label)} characters, not shown: it may be a text)"
    return repr(label)


def _records(source: str, split: Split, at: str, wanted: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, record) with `where` = 'data.train: file: line 7', for messages."""
    kind = _kind(source, split, at)
    if isinstance(kind, re.Match):
        yield from hub.records(kind["id"], kind["revision"], "train" if split == "unlabelled" else split, at)
    elif kind == "file":
        yield from files.records(source, at, wanted)
    else:
        from jobs.data import shop

        assert split != "unlabelled"
        yield from ((f"{at}: row {n}", dict(row)) for n, row in enumerate(shop.messages(split), 1))


def _kind(source: str, split: Split, at: str) -> Literal["generator", "file"] | re.Match[str]:
    """What a source is; of an id on the Hub its match of `HUB_ID`. Raises `UsageError` where it is nothing."""
    if source.startswith("embedded:"):
        if source != EMBEDDED:
            raise UsageError(f"{at}: no such generator; {EMBEDDED} is the one there is")
        if split == "unlabelled":
            raise UsageError(f"{at}: all rows of the generator have labels; give a file, URL or Hub id")
        return "generator"
    if not files.is_named(source) and (found := HUB_ID.match(source)) and found["owner"]:
        return found
    if files.is_named(source) or files.is_folder(source):
        return "file"
    raise UsageError(f"{at}: not {files.KINDS}, a folder or URL of such files, or a Hub id owner/name")
