"""Rows out of files, URLs, the Hub or the embedded generator, checked one by one.

Every fault of a row is a `UsageError` that names the source, the line and the column, never the text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from cluster.session import JobError
from configs.loader import UsageError
from configs.schema.data import DATA_FILE, EMBEDDED, HUB_ID, DataSpec
from configs.shown_urls import shown_urls
from jobs.data import hub
from jobs.data.formats import files
from jobs.data.leaks import Hashes, same_text
from jobs.data.values import input_of, label_of, slice_of
from jobs.data.words import listed
from serving.inputs import Slots

Split = Literal["train", "validation", "test", "unlabelled"]
LONGEST_LABEL, FEW_LABELS = 60, 10  # characters; number of different labels that need not repeat
HELD_AGAINST: dict[Split, tuple[Split, ...]] = {  # splits with which a split may share no text
    "train": ("validation", "test"),
    "unlabelled": ("validation", "test"),
    "validation": ("test",),
    "test": (),
}


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


class _Inputs(NamedTuple):
    """The inputs of a row, with its whole record."""

    where: str  # 'data.train: file: line 7'
    record: dict[str, Any]
    text: str
    pair: str | None
    slots: Slots

    @property
    def line(self) -> tuple[str, int]:
        """The unit, lines or rows, and the row's number."""
        unit, number = self.where.rsplit(" ", 2)[1:]
        return f"{unit}s", int(number)


def rows(data: DataSpec, split: Split, seen: dict[Split, Hashes] | None = None) -> Iterator[Row]:
    """The rows of one split, in their order; `data.on_leak` = drop leaves out texts that `HELD_AGAINST` forbids.

    `seen` holds the hashes of splits that were read before, and receives those of this split.
    """
    columns = data.slices if split == "test" else ()
    mine = None if seen is None else seen.setdefault(split, Hashes())
    forbidden = _held_against(data, split, seen or {}) if data.on_leak == "drop" else set[int]()
    is_empty = True
    for inputs in _inputs(data, split):
        if forbidden and same_text(inputs.text, inputs.pair) in forbidden:
            if mine is not None:
                mine.leave_out(*inputs.line)
            continue
        is_empty = False
        slices = tuple(slice_of(inputs.record, column, inputs.where) for column in columns)
        label = "" if split == "unlabelled" else label_of(inputs.record, data.label, inputs.where)
        if mine is not None:
            mine.add(inputs.text, inputs.pair, label, *inputs.line)
        yield Row(inputs.text, inputs.pair, label, inputs.slots, slices)
    if is_empty:
        others = " and ".join(f"data.{other}" for other in HELD_AGAINST[split])
        raise UsageError(f"{place(data, split)}: data.on_leak=drop leaves no row: all texts are those of {others}")


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


def _inputs(data: DataSpec, split: Split) -> Iterator[_Inputs]:
    source = getattr(data, split)
    if source is None:
        raise UsageError(f"data.{split}: missing; give a file, URL or Hub id")
    is_empty = True
    for where, record in _records(source, split, place(data, split)):
        is_empty = False
        text, named = input_of(record, data.text, where)
        pair, more = (None, ()) if data.text_pair is None else input_of(record, data.text_pair, where)
        yield _Inputs(where, record, text, pair, named + more)
    if is_empty:
        raise UsageError(f"{place(data, split)}: holds no rows")


class Sample(NamedTuple):
    """The rows that a figure is measured on."""

    rows: int
    fingerprint: str  # SHA-256 of their texts and labels


def told(row: Row) -> bytes:
    """Texts, label and attributes of a row as bytes, for a fingerprint of many rows."""
    return json.dumps([row.text, row.pair, row.label, row.slots]).encode()


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


def check_source(data: DataSpec, split: Split) -> None:
    """Refuse a source that cannot hold the rows of a split, by its name and, in a local file, by its columns' names.

    No row is read, but for the keys of the first object in JSON Lines; no URL is opened.
    """
    source = getattr(data, split)
    at = place(data, split)
    form = _form(source, split, at)
    if form is None:
        return
    if form.re is HUB_ID:
        hub.check(form["id"], form["revision"], at)
    elif "://" not in source:
        there = files.column_names(source, form, at)
        for column in (data.text, data.text_pair, data.label, *data.slices):
            if column is not None and column not in there:
                raise UsageError(f"{at}: no column {column!r}; columns here: {listed(there)}")


def place(data: DataSpec, split: Split) -> str:
    """'data.train: file', the beginning of messages; a URL without what may not be shown."""
    return f"data.{split}: {shown_urls(str(getattr(data, split)))}"


def shown(label: str, labels: Sequence[str]) -> str:
    """A label for a message; only row and length where it looks like a text. `labels` are those of all rows.

    The labels are customers' words where `data.label` names a column of texts.
    """
    kinds = len(set(labels))
    hardly_repeat = 2 * kinds > len(labels) and (kinds > FEW_LABELS or " " in label)
    if hardly_repeat or len(label) > LONGEST_LABEL:
        return f"of row {labels.index(label) + 1} ({len(label)} characters, not shown: it may be a text)"
    return repr(label)


def _records(source: str, split: Split, at: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, record) with `where` = 'data.train: file: line 7', for messages."""
    form = _form(source, split, at)
    if form is None:
        from jobs.data import shop

        assert split != "unlabelled"
        yield from ((f"{at}: row {n}", dict(row)) for n, row in enumerate(shop.messages(split), 1))
    elif form.re is DATA_FILE:
        yield from files.records(source, form, at)
    else:
        yield from hub.records(form["id"], form["revision"], "train" if split == "unlabelled" else split, at)


def _form(source: str, split: Split, at: str) -> re.Match[str] | None:
    """A source as a match of `DATA_FILE` or `HUB_ID`, None for the generator. Raises `UsageError` where it is none."""
    if source.startswith("embedded:"):
        if source != EMBEDDED:
            raise UsageError(f"{at}: no such generator; {EMBEDDED} is the one there is")
        if split == "unlabelled":
            raise UsageError(f"{at}: all rows of the generator have labels; give a file, URL or Hub id")
        return None
    form = DATA_FILE.search(source.split("?")[0]) or HUB_ID.match(source)
    if form and (form.re is DATA_FILE or form["owner"]):
        return form
    known = "a .jsonl, .csv or .parquet file (or .gz of one), a URL of one, or a Hub id owner/name"
    raise UsageError(f"{at}: not {known}")
