"""Rows that a bundle is asked about: read and checked once, and kept in parts until all of them are answered.

No part is answered before all rows were read, so a wrong row is told before an hour of work. The parts are files of the
job, below its output, that only its user may read, see `jobs.data.snapshot`.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from configs.given import given
from configs.loader import UsageError
from configs.places import resolved
from configs.schema.recipe import Recipe
from configs.schema.score import ScoreSpec
from configs.shown_urls import shown_urls
from jobs.data.formats import files
from jobs.data.snapshot import BEGINS, THIS_PROCESS
from jobs.data.source import asked_of
from jobs.data.values import name_of, text_of
from jobs.data.words import no_column

if TYPE_CHECKING:
    import pyarrow

FIELD = "score.input"
PATTERN = frozenset("*?[")


class Asked(NamedTuple):
    """One row: what the bundle is asked, and what stands beside its answer."""

    where: str  # for messages
    input: Any  # as a request has it
    fields: Mapping[str, str]  # values of placeholders
    kept: Mapping[str, Any]  # columns; empty where they lie in the part's table


@dataclass(frozen=True)
class Parts:
    """Rows in parts, each in a file. Plain data, but for the schema of kept columns where they are tables."""

    begins: str  # of the files' names
    rows: list[int]  # of each part
    fingerprint: str  # SHA-256 of all rows
    columns: list[str]  # that are kept
    schema: Any = None  # a pyarrow.Schema: the kept columns lie beside, as tables

    def read(self, number: int) -> list[Asked]:
        """The rows of a part, in order."""
        with open(_file(self.begins, number), encoding="utf-8") as lines:
            return [Asked(*json.loads(line)) for line in lines]

    def table(self, number: int) -> pyarrow.Table:
        """The kept columns of a part, the same in all parts."""
        import pyarrow
        import pyarrow.parquet

        found = pyarrow.parquet.read_table(_beside(_file(self.begins, number)))
        for each in self.schema:
            if each.name not in found.column_names:
                found = found.append_column(each, pyarrow.nulls(self.rows[number], each.type))
        return found.select(self.schema.names).cast(self.schema)


@dataclass
class _Kept:
    """What is known so far of the columns that are kept."""

    spec: ScoreSpec
    answers: Sequence[str]  # names of columns that the answers have
    names: dict[str, None] = field(default_factory=dict)
    schema: Any = None

    def of(self, record: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The kept columns of a record. Raises `UsageError`."""
        kept = dict(record)
        if self.spec.keep is not None:
            found = {column: name_of(column, record) for column in self.spec.keep}
            kept = {column: record[name] for column, name in found.items() if name is not None}
        for name in kept.keys() - self.names.keys():
            if name in self.answers:
                raise UsageError(
                    f"score.keep: {where}: column {name!r} is also what the answers have; set score.prefix=predicted_, "
                    "or name other columns in score.keep"
                )
        self.names.update(dict.fromkeys(kept))
        return kept

    def add(self, table: pyarrow.Table, where: str) -> None:
        """Know the types of a part. Raises `UsageError` where a column had another one before."""
        import pyarrow

        with given(where, "write score.format=jsonl, or leave the column out of score.keep", "is no table"):
            before = [] if self.schema is None else [self.schema]
            self.schema = pyarrow.unify_schemas([*before, table.schema], promote_options="permissive")


@contextmanager
def take_parts(
    recipe: Recipe, folder: Path, answers: Sequence[str], fields: Sequence[str] = (), has_turns: bool = False
) -> Iterator[Parts]:
    """Read all rows of `score.input` into parts below `folder`, for as long as the block lasts.

    `answers`: names of columns that the answers have; `fields`: columns of values that a request gives; `has_turns`:
    whether the bundle takes conversations as they are. Raises `UsageError` at the first bad row.
    """
    begins = folder / ".work" / f"{BEGINS}score-{THIS_PROCESS}-{uuid.uuid4().hex[:8]}"
    begins.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield _write(recipe, str(begins), _Kept(recipe.score, answers), fields, has_turns)
    finally:
        for each in begins.parent.glob(f"{begins.name}*"):
            each.unlink(missing_ok=True)


def _write(recipe: Recipe, begins: str, kept: _Kept, fields: Sequence[str], has_turns: bool) -> Parts:
    digest, counts, part = hashlib.sha256(), list[int](), list[Asked]()

    def close() -> None:
        _close(part, _file(begins, len(counts)), kept)
        counts.append(len(part))
        part.clear()

    for where, record in _records(recipe.score):
        values = {name: text_of(record, name, where) for name in fields if name_of(name, record) is not None}
        asked = Asked(where, asked_of(recipe.data, record, where, has_turns), values, kept.of(record, where))
        digest.update(_line(asked[1:], where, str))
        part.append(asked)
        if len(part) == recipe.score.rows_per_file:
            close()
    if part:
        close()
    if not counts:
        raise UsageError(f"{_place(recipe.score)}: holds no rows")
    return Parts(begins, counts, digest.hexdigest(), list(kept.names), kept.schema)


def _close(part: Sequence[Asked], file: str, kept: _Kept) -> None:
    """Write a part that nobody else may read."""
    if kept.spec.format == "parquet":
        import pyarrow
        import pyarrow.parquet

        where, names = part[0].where, dict.fromkeys(name for each in part for name in each.kept)
        with given(where, "write score.format=jsonl, or leave the column out of score.keep", "is no table"):
            columns = {name: pyarrow.array([each.kept.get(name) for each in part]) for name in names}
        table = pyarrow.table(columns)
        kept.add(table, where)
        with _private(_beside(file)) as beside:
            pyarrow.parquet.write_table(table, beside)
        part = [each._replace(kept={}) for each in part]
    with _private(file) as lines:
        lines.writelines(_line(each, each.where, _plain) for each in part)


def _line(value: Any, where: str, plain: Any) -> bytes:
    """JSON of a row. Raises `UsageError` where its columns hold what JSON cannot."""
    try:
        return json.dumps(value, ensure_ascii=False, default=plain).encode() + b"\n"
    except UnicodeEncodeError:
        raise UsageError(f"{where}: holds half a character (a lone surrogate); remove it") from None
    except TypeError as error:
        raise UsageError(
            f"{where}: {error}; write score.format=parquet, or leave the column out of score.keep"
        ) from None


def _plain(value: Any) -> Any:
    """What stands in JSON for a value of a Parquet column."""
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return str(value)
    if isinstance(value, Decimal):
        return float(value) if Decimal(repr(float(value))) == value else str(value)
    raise TypeError(f"a column holds {type(value).__name__}, which has no form in text")


@contextmanager
def _private(path: str) -> Iterator[Any]:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        yield file


def _file(begins: str, number: int) -> str:
    return f"{begins}-{number:05d}.jsonl"


def _beside(file: str) -> str:
    return file.removesuffix(".jsonl") + ".parquet"


def check_sources(recipe: Recipe) -> None:
    """Refuse an input that is missing, that is no file of rows, or, here, that lacks a column. No row is read."""
    needed = (recipe.data.text, recipe.data.text_pair, *(recipe.score.keep or ()))
    for source, at in _sources(recipe.score):
        if "://" in source:
            continue
        there = files.column_names(source, at)
        for column in needed:
            if column is not None and name_of(column, there) is None:
                raise no_column(at, column, there)


def _records(spec: ScoreSpec) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, record) of all rows, with all their columns, in order."""
    for source, at in _sources(spec):
        yield from files.records(source, at, None)


def _sources(spec: ScoreSpec) -> list[tuple[str, str]]:
    """(file, folder or URL, its place for messages), in order. Raises `UsageError`."""
    at = _place(spec)
    if spec.input is None:
        raise UsageError(f"{FIELD}: missing; give {files.KINDS}, a folder or URL of such files, or a pattern of names")
    source = resolved(spec.input, FIELD)
    found = [source]
    if PATTERN & set(source) and "://" not in source and not Path(source).exists():
        found = sorted(glob.glob(source), key=files.by_number)
        if not found:
            raise UsageError(f"{at}: no file has such a name")
    places = [at if each == source else f"{FIELD}: {each}" for each in found]
    for each, place in zip(found, places, strict=True):
        if not files.is_named(each) and not files.is_folder(each):
            is_local = "://" not in each and not Path(each).exists()
            raise UsageError(f"{place}: {'no such file' if is_local else f'not {files.KINDS}, or a folder of such'}")
    return list(zip(found, places, strict=True))


def _place(spec: ScoreSpec) -> str:
    return f"{FIELD}: {shown_urls(str(spec.input))}"
