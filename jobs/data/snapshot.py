"""The rows of a split as they were when a job began, in a file that only its user may read.

A job reads them from their source once; the processes that it starts, also those on other nodes, read the file, which
is removed at the end of the job. A job that was killed leaves it: the next one with the same output removes that.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.loader import Spec
from configs.schema.data import DataSpec
from jobs.data.leaks import Hashes
from jobs.data.source import HELD_AGAINST, Row, Sample, Split, rows, sample, source_of

BEGINS = "rows-"
THIS_PROCESS = uuid.uuid4().hex  # in the names of its files; a process id may come again


class Snapshot(Spec):
    """Where the rows of a split lie, which they are, and what their local sources looked like; plain data."""

    file: str
    split: Split
    sample: Sample
    looked: list[list[tuple[str, int, int]]]  # name, size and time of the last change (ns) of each local file

    def rows(self) -> list[Row]:
        """The rows, in order."""
        with open(self.file, encoding="utf-8") as file:
            return [_row(*json.loads(line)) for line in file]

    def looks_current(self, data: DataSpec) -> bool:
        """Whether no local source of the rows was written since; of a URL and of the Hub nothing is asked."""
        return self.looked == _looks(data, self.split)


@contextmanager
def take_snapshot(
    data: DataSpec, split: Split, output: Path, seen: dict[Split, Hashes] | None = None
) -> Iterator[Snapshot]:
    """Write the rows of a split below `output`, for as long as the block lasts; `seen`: as in `rows`.

    Nobody but the job that has `output` to itself may do so: what other processes left there is removed.
    """
    remove_left(output)
    looked = _looks(data, split)  # before: what is written while they are read has changed since
    found = list(rows(data, split, seen))
    file = output / ".work" / f"{BEGINS}{split}-{THIS_PROCESS}-{uuid.uuid4().hex[:8]}.jsonl"
    try:
        _write(file, found)
        yield Snapshot(file=str(file), split=split, sample=sample(found), looked=looked)
    finally:
        file.unlink(missing_ok=True)


def remove_left(output: Path) -> None:
    """Remove the rows of jobs that were killed; the job that calls has `output` to itself."""
    for left in (output / ".work").glob(f"{BEGINS}*"):
        if THIS_PROCESS not in left.name:
            left.unlink(missing_ok=True)


def _write(file: Path, found: Iterable[Row]) -> None:
    """Whole under its name or not at all; others may not read it from its first byte on."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(".partial")
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as lines:
            lines.writelines(f"{json.dumps(row)}\n" for row in found)
        os.replace(aside, file)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def _row(
    text: str,
    pair: str | None,
    label: str,
    slots: list[list[str]],
    slices: list[str],
    messages: list[list[str]],
    manner: list[list[str]],
) -> Row:
    named, said, asked = (tuple((name, value) for name, value in each) for each in (slots, messages, manner))
    return Row(text, pair, label, named, tuple(slices), said, asked)


def _looks(data: DataSpec, split: Split) -> list[list[tuple[str, int, int]]]:
    """What a look at the files says: the source of a split, and those whose texts it may not share."""
    forbidden = HELD_AGAINST[split] if data.on_leak == "drop" else ()
    return [_look(source_of(data, each)) for each in (split, *forbidden)]


def _look(source: str | None) -> list[tuple[str, int, int]]:
    """Name, size and time of the file, or of the files of a folder; nothing where it is no local file."""
    if source is None:
        return []
    with contextlib.suppress(OSError, ValueError):
        path = Path(source)
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        return [(each.name, status.st_size, status.st_mtime_ns) for each in files if (status := each.stat())]
    return []
