"""What a search asked for and found, in order, so that it goes on after a kill at any moment."""

from __future__ import annotations

import itertools
import json
import os
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.session import JobError
from configs.folder import append, write_synced

Entry = dict[str, Any]
METRICS, ERROR = "metrics", "error"  # what a trial that has ended came to
SCORE = "score"  # the metric that is maximised


class Progress:
    """Which trials a search has begun and which have ended, on disk before anything follows from it.

    A trial leaves its own result, too, as its last act: one that was finished is not begun again, although the search
    was killed before it heard of that.
    """

    def __init__(self, folder: Path, trials: int) -> None:
        """Of the search of so many `trials` in `folder`. Where all have ended, those that failed get another try."""
        self.folder = folder
        self.journal = Journal(folder / "journal")
        self._spent = _spent(self.journal.entries)
        self.journal.append({"process": os.getpid()})
        self.values = {each["asked"]: each["values"] for each in self.journal.entries if "asked" in each}
        self.ended = {each["ended"]: each for each in self.journal.entries if "ended" in each}
        for number in self.values.keys() - self.ended.keys():
            if METRICS in (found := self.result(number)):
                self.end(number, found)
        if len(self.ended) == trials:
            self.ended = {number: entry for number, entry in self.ended.items() if METRICS in entry}
        self.left = trials - len(self.ended)

    @property
    def begun(self) -> list[int]:
        """Trials that have not ended."""
        return sorted(self.values.keys() - self.ended.keys())

    def seconds_left(self, limit: float | None) -> float | None:
        """Of `limit` seconds, after those of earlier processes; None where there is no limit."""
        return None if limit is None else max(0.0, limit - self._spent)

    def begin(self, values: Mapping[str, Any]) -> int:
        """The number of a new trial."""
        number = len(self.values)
        self.journal.append({"asked": number, "values": values})
        self.values[number] = dict(values)
        return number

    def end(self, number: int, found: Mapping[str, Any]) -> Entry:
        """Note metrics or error of a trial."""
        self.journal.append(entry := {"ended": number, **found})
        self.ended[number] = entry
        return entry

    def result(self, number: int) -> Entry:
        """What a trial left with `leave`; empty where it left nothing."""
        file = _result(self.folder, number)
        return json.loads(file.read_bytes()) if file.exists() else {}


def leave(folder: Path, number: int, found: Mapping[str, Any] | None) -> None:
    """The result of a trial of the search in `folder`, from the trial's own process; None takes an older one away."""
    file = _result(folder, number)
    if found is None:
        file.unlink(missing_ok=True)
    else:
        write_synced(file, json.dumps(found))


def _spent(entries: Sequence[Entry]) -> float:
    """Seconds between the first and the last entry of each process."""
    starts = [index for index, entry in enumerate(entries) if "process" in entry]
    spans = itertools.pairwise([*starts, len(entries)])
    return sum(entries[end - 1]["at"] - entries[start]["at"] for start, end in spans)


def _result(folder: Path, number: int) -> Path:
    return folder / f"result-{number}.json"


class Journal:
    """Lines of JSON, each behind its checksum; each is on the disk itself before anything follows from it.

    One process at a time writes it.
    """

    def __init__(self, file: Path) -> None:
        """Take up a journal, or begin one. Raises `JobError` where a line is damaged."""
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        content = file.read_bytes() if file.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]  # a line cut short was never acted upon
        self.entries: list[Entry] = list(self._read(whole))
        self._descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.ftruncate(self._descriptor, len(whole))

    def append(self, entry: Entry) -> None:
        """Keep an entry, and when. Raises `JobError` where it cannot be written; the journal is then as it was."""
        entry = {**entry, "at": round(time.time(), 3)}
        text = json.dumps(entry)
        line = f"{_checksum(text)} {text}\n".encode()
        try:
            append(self._descriptor, line, sync=True)
        except OSError as error:
            raise JobError(
                f"{self.file}: not written: {error.strerror}; run the same command again: the search goes on"
            ) from error
        self.entries.append(entry)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)

    def _read(self, content: bytes) -> Iterator[Entry]:
        for number, line in enumerate(content.decode(errors="replace").splitlines(), start=1):
            checksum, _, text = line.partition(" ")
            if checksum != _checksum(text):
                raise JobError(
                    f"{self.file}: line {number} is damaged; remove {self.file.parent} to begin the search again"
                )
            yield json.loads(text)


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
