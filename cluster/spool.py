"""Entries that MLflow has not got yet, as lines of JSON in <output>/.tracking: private, locked, there after a kill -9.

A file belongs to the process that holds its lock. The next process that finds a file without a living owner sends it,
and removes it once everything in it has arrived.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from configs.folder import append

FOLDER = ".tracking"
REFUSED = ".refused"  # ending of a file with something in it that MLflow will never take

log = logging.getLogger(__name__)


class Spool:
    """The file of one writer, made with its first entry. A file that cannot be written is logged once."""

    def __init__(self, output: Path, run: str) -> None:
        self.path = output / FOLDER / f"{time.time_ns()}-{uuid.uuid4().hex[:8]}.jsonl"  # in the order of their making
        self._run = run
        self._descriptor: int | None = None
        self._complains = True

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write an entry; when this returns, a kill -9 of this process does not lose it."""
        try:
            if self._descriptor is None:
                self._descriptor = self._create()
            _write(self._descriptor, entry)
        except OSError as error:
            if self._complains:
                log.warning("%s: %s; what MLflow is told is kept in memory only", self.path, error.strerror)
            self._complains = False

    def sync(self) -> None:
        """Wait until the entries are on the disk itself."""
        if self._descriptor is not None:
            with suppress(OSError):
                os.fsync(self._descriptor)

    def close(self, *, keep: bool, refused: bool = False) -> None:
        """Let go of the file: keep it for the next job to send, set it aside for a reader (`refused`), or remove it."""
        if self._descriptor is None:
            return
        with suppress(OSError):  # it is sent once more, to no effect
            if refused and not keep:
                self.path.rename(self.path.with_suffix(REFUSED))
            elif not keep:
                self.path.unlink()
        os.close(self._descriptor)
        self._descriptor = None

    def _create(self) -> int:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        aside = self.path.with_name(f".{self.path.name}")
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # before anyone can find it
            _write(descriptor, {"run": self._run})
            aside.rename(self.path)
        except OSError:
            aside.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        return descriptor


def waiting(output: Path) -> list[Path]:
    """Files of an output that were not sent, oldest first, those of living writers too."""
    return sorted((output / FOLDER).glob("*.jsonl"))


@contextmanager
def left_behind(path: Path) -> Iterator[tuple[str, list[Mapping[str, Any]]] | None]:
    """Hold a file whose writer is gone, as (run, entries); None where the writer lives or the file is gone.

    The run is empty where the line that names it is damaged.
    """
    try:
        file = path.open("r+b")
    except FileNotFoundError:
        yield None
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        lines = list(_entries(file.read()))
        named = bool(lines) and "run" in lines[0]
        yield (lines[0]["run"], lines[1:]) if named else ("", lines)


def _write(descriptor: int, entry: Mapping[str, Any]) -> None:
    append(descriptor, (json.dumps(entry) + "\n").encode(), sync=False)


def _entries(content: bytes) -> Iterator[Mapping[str, Any]]:
    """All whole lines; a line cut short by a power failure was never acknowledged."""
    for line in content.splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            log.warning("a damaged line of %d bytes in what MLflow was to be told is left out", len(line))
