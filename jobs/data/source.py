"""Rows out of files, URLs, the Hub or the embedded generator, checked one by one.

Every fault of a row is a `UsageError` that names the source, the line and the column, never the text.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from cluster.session import JobError
from cluster.shown_urls import shown_urls
from configs.loader import UsageError
from configs.schema.data import DATA_FILE, EMBEDDED, HUB_ID, DataSpec
from jobs.data.leaks import Hashes, same_text
from serving import units
from serving.inputs import Slots, slots, worded

if TYPE_CHECKING:
    import pyarrow.parquet

Split = Literal["train", "validation", "test", "unlabelled"]
LONGEST_LINE_BYTES = 10 << 20
LONGEST_NAME = 40  # characters of a column's name; a file without a header has texts in its place
LONGEST_LABEL, FEW_LABELS = 60, 10  # characters; number of different labels that need not repeat
NO_EXTRA = "reading from the Hub needs slimcart installed with its extra 'hub'"
HUB_SECONDS = 10.0  # time for the Hub to say whether it has a data set
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
        slices = tuple(_slice(inputs.record, column, inputs.where) for column in columns)
        label = "" if split == "unlabelled" else _label(inputs.record, data.label, inputs.where)
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
        text, named = _input(record, data.text, where)
        pair, more = (None, ()) if data.text_pair is None else _input(record, data.text_pair, where)
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
        _check_hub(form["id"], form["revision"], at)
    elif "://" not in source:
        there = _column_names(source, form, at)
        for column in (data.text, data.text_pair, data.label, *data.slices):
            if column is not None and column not in there:
                raise UsageError(f"{at}: no column {column!r}; columns here: {_listed(there)}")


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
        yield from _file(source, form, at)
    else:
        yield from _hub(form["id"], form["revision"], "train" if split == "unlabelled" else split, at)


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


def _file(source: str, form: re.Match[str], at: str) -> Iterator[tuple[str, dict[str, Any]]]:
    with _opened(source, form, at) as file:
        if form["kind"] == "parquet":
            yield from _parquet(file, at)
        elif form["kind"] == "csv":
            yield from _csv(_lines(file, at), at)
        else:
            yield from _json_lines(_lines(file, at), at)


def _column_names(source: str, form: re.Match[str], at: str) -> list[str]:
    with _opened(source, form, at) as file:
        if form["kind"] == "parquet":
            return _parquet_file(file, at).schema_arrow.names
        if form["kind"] == "csv":
            return list(_csv_reader(_lines(file, at), at).fieldnames or ())
        for _, record in _json_lines(_lines(file, at), at):
            return list(record)
    raise UsageError(f"{at}: holds no rows")


@contextmanager
def _opened(source: str, form: re.Match[str], at: str) -> Iterator[Any]:
    """The bytes of a file; every error while it is read is a `UsageError`."""
    import fsspec

    try:
        with fsspec.open(source, "rb", compression="gzip" if form["gzip"] else None) as file:
            yield file
    except UsageError:
        raise
    except FileNotFoundError as error:
        cause = error.__cause__  # fsspec calls a URL missing for every bad answer, and keeps the reason here
        raise UsageError(f"{at}: cannot be read: {_reason(cause)}" if cause else f"{at}: no such file") from None
    except Exception as error:  # noqa: BLE001 - cut gzip, damaged pages, a lost connection: nothing in common
        raise UsageError(f"{at}: cannot be read: {_reason(error)}") from None


def _lines(file: Iterable[bytes], at: str) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        if len(line) > LONGEST_LINE_BYTES:
            raise UsageError(f"{at}: line {number}: longer than {LONGEST_LINE_BYTES} bytes")
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{at}: line {number}: byte {error.start} is not UTF-8; save the file as UTF-8") from None


def _json_lines(lines: Iterator[str], at: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{at}: line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = "nested too deep" if isinstance(error, RecursionError) else getattr(error, "msg", _reason(error))
            raise UsageError(f"{where}: not JSON ({reason}); one JSON object a line is expected") from None
        if not isinstance(record, dict):
            raise UsageError(f"{where}: a JSON {type(record).__name__}; one JSON object a line is expected")
        yield where, record


def _csv(lines: Iterator[str], at: str) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = _csv_reader(lines, at)
    try:
        for record in reader:
            where = f"{at}: line {reader.line_num}"
            if None in record or None in record.values():
                fields = len(reader.fieldnames or ())
                raise UsageError(f"{where}: not {fields} fields as in the header; quote the commas")
            yield where, record
    except csv.Error as error:
        raise UsageError(f"{at}: line {reader.reader.line_num}: not CSV: {error}") from None


def _csv_reader(lines: Iterator[str], at: str) -> csv.DictReader[str]:
    """A reader of the rows, after a checked header."""
    reader = csv.DictReader(lines, strict=True)
    try:
        names = reader.fieldnames or ()
    except csv.Error as error:
        raise UsageError(f"{at}: line 1: not CSV: {error}") from None
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UsageError(f"{at}: line 1: column {twice[0]!r} is given twice; rename one")
    return reader


def _parquet(file: Any, at: str) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    for batch in _parquet_file(file, at).iter_batches():
        for record in batch.to_pylist():
            number += 1
            yield f"{at}: row {number}", record


def _parquet_file(file: Any, at: str) -> pyarrow.parquet.ParquetFile:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
        schema = table.schema_arrow
    except pyarrow.ArrowException as error:
        raise UsageError(f"{at}: not Parquet: {error}") from None
    for field in schema:
        if isinstance(field.type, pyarrow.BaseExtensionType):  # reading one can run code that the file carries
            raise UsageError(f"{at}: column {field.name!r} has the extension type {field.type}; store plain columns")
    return table


def _check_hub(name: str, revision: str | None, at: str) -> None:
    """Refuse a data set that the Hub does not know, or that is a path to nothing, as far as can be told."""
    if importlib.util.find_spec("datasets") is None:
        raise UsageError(f"{at}: {NO_EXTRA}")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        HfApi().dataset_info(name, revision=revision, timeout=HUB_SECONDS)
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise UsageError(f"{at}: neither a file here nor a data set on the Hub") from None
    except Exception:  # noqa: BLE001 - no network, a Hub in trouble: the data set may be in the cache
        if Path(name).parent.is_dir():
            raise UsageError(f"{at}: no such file, and the Hub does not answer") from None


def _hub(name: str, revision: str | None, split: Split, at: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import datasets
    except ImportError:
        raise UsageError(f"{at}: {NO_EXTRA}") from None
    try:
        table = datasets.load_dataset(name, split=split, revision=revision)
    except Exception as error:  # noqa: BLE001 - the library raises anything from ValueError to connection errors
        raise UsageError(f"{at}: the Hub gave no split {split!r}: {_reason(error)}") from None
    for number, record in enumerate(table, 1):
        yield f"{at}: row {number}", dict(record)


def _reason(error: BaseException) -> str:
    return shown_urls(next(iter(str(error).splitlines()), "")) or type(error).__name__


def _listed(names: Iterable[object]) -> str:
    """Column names for a message; a long name is a customer's text in a file without header, and is not shown."""
    words = map(str, names)
    return ", ".join(word if len(word) <= LONGEST_NAME else f"(a name of {len(word)} characters)" for word in words)


def _value(record: dict[str, Any], column: str, where: str) -> Any:
    value = _optional(record, column, where)
    if value is None:
        raise UsageError(f"{where}: column {column!r} has no value; remove the row or fill it")
    return value


def _optional(record: dict[str, Any], column: str, where: str) -> Any:
    if column not in record:
        raise UsageError(f"{where}: no column {column!r}; columns here: {_listed(record)}")
    value = record[column]
    return None if isinstance(value, float) and value != value else value


def _input(record: dict[str, Any], column: str, where: str) -> tuple[str, Slots]:
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


def _text(value: Any, column: str, where: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{where}: column {column!r} holds a {type(value).__name__}; text is expected")
    if not value.strip():
        raise UsageError(f"{where}: column {column!r} is empty; remove the row or fill it")
    return _whole(value, column, where)


def _label(record: dict[str, Any], column: str, where: str) -> str:
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


def _slice(record: dict[str, Any], column: str, where: str) -> str:
    value = _optional(record, column, where)
    if isinstance(value, dict | list | bytes):
        raise UsageError(
            f"{where}: column {column!r} holds a {type(value).__name__}; data.slices takes texts, numbers, yes and no"
        )
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else _whole(str(value).strip(), column, where)


def _whole(text: str, column: str, where: str) -> str:
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise UsageError(f"{where}: column {column!r} holds half a character (a lone surrogate); remove it")
    return text
