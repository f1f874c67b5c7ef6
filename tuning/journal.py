"""The trials of a search and their results, in order, so that it goes on after a kill at any moment."""

from __future__ import annotations

import json
import math
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.session import JobError
from configs.folder import append, write_synced

SECONDS_BETWEEN_SIGNS = 1.0  # between two signs of life
Entry = dict[str, Any]
METRICS, ERROR = "metrics", "error"  # one of them is the result of a trial that has ended
SCORE = "score"  # the metric that is maximised where no judge computes another
STOPPED = "stopped before it was measured"  # the error of a trial that search.max_seconds ended
BY = "by"  # the run that made a trial
Score = Callable[[Mapping[str, float]], float]  # metrics of a trial -> what is maximised


class Progress:
    """The trials that a search has begun and that have ended, on disk before anything follows from them.

    A trial leaves its own result, too, as its last act: a finished trial is not begun again, even where the search was
    killed before it heard of it. `ended` holds the result of each trial, `first` its result at its first end: a later
    process may have tried it again. Results hold for any way to judge them, so a process with another way takes up the
    trials that were begun `before`.
    """

    def __init__(self, folder: Path, trials: int, way: Any = None) -> None:
        """Take up, or begin, the search of so many `trials` in `folder`, drawn and judged in a `way` (JSON).

        Once all trials have ended, failed ones get another try if this process judges as the last one did, or if all
        failed.
        """
        self.folder = folder
        self.journal = Journal(folder / "journal")
        self._spent = _spent(self.journal.entries, _last_sign(folder))
        self._signed = -math.inf
        earlier = _last(self.journal.entries, "process")
        self.journal.append({"process": os.getpid(), "spent": self._spent, "way": way})
        self.before = _asked_in_other_ways(self.journal.entries)
        self.values = {each["asked"]: each["values"] for each in self.journal.entries if "asked" in each}
        ends = [each for each in self.journal.entries if "ended" in each and each.get(ERROR) != STOPPED]
        self.ended = {each["ended"]: each for each in ends}
        self.first = {each["ended"]: each for each in reversed(ends)}
        for number in self.values.keys() - self.ended.keys():
            if METRICS in (result := self.result(number)):
                self.end(number, result)
        finished = {number: entry for number, entry in self.ended.items() if METRICS in entry}
        if len(self.ended) >= trials and (earlier.get("way") == way or not finished):
            self.ended = finished
        self.left = max(0, trials - len(self.ended))

    @property
    def begun(self) -> list[int]:
        """Trials that have not ended."""
        return sorted(self.values.keys() - self.ended.keys())

    def seconds_left(self, limit: float | None) -> float | None:
        """Seconds of `limit` that earlier processes have left; None where there is no limit."""
        return None if limit is None else max(0.0, limit - self._spent)

    def alive(self) -> None:
        """Note from time to time that this process is at work: if it is killed, its time counts up to the last note."""
        if (now := time.monotonic()) - self._signed >= SECONDS_BETWEEN_SIGNS:
            self._signed = now
            _sign(self.folder).write_text(f"{time.time():.3f}", encoding="ascii")

    def begin(self, values: Mapping[str, Any]) -> int:
        """The number of a new trial."""
        number = len(self.values)
        self.journal.append({"asked": number, "values": values})
        self.values[number] = dict(values)
        return number

    def end(self, number: int, result: Mapping[str, Any]) -> Entry:
        """Note metrics or error of a trial."""
        self.journal.append(entry := {"ended": number, **result})
        self.ended[number] = entry
        self.first.setdefault(number, entry)
        return entry

    def result(self, number: int) -> Entry:
        """The result that a trial left with `leave`; empty where it left none."""
        file = _result(self.folder, number)
        return json.loads(file.read_bytes()) if file.exists() else {}


def leave(folder: Path, number: int, result: Mapping[str, Any] | None) -> None:
    """Leave the result of a trial of the search in `folder`, from its own process; None removes an older one."""
    file = _result(folder, number)
    if result is None:
        file.unlink(missing_ok=True)
    else:
        write_synced(file, json.dumps(result))


def _spent(entries: Sequence[Entry], last_sign: float) -> float:
    """Seconds of all processes so far; the last process counts up to its last entry or sign of life."""
    if not (began := _last(entries, "process")):
        return 0.0
    return round(began.get("spent", 0.0) + max(0.0, entries[-1]["at"] - began["at"], last_sign - began["at"]), 3)


def _last(entries: Sequence[Entry], key: str) -> Entry:
    """The last entry that has a key; empty where none has."""
    return next((entry for entry in reversed(entries) if key in entry), {})


def _asked_in_other_ways(entries: Sequence[Entry]) -> list[int]:
    """Trials begun before the last, unbroken row of processes that draw and judge in the same way."""
    way = _last(entries, "process").get("way")
    processes = [index for index, entry in enumerate(entries) if "process" in entry]
    others = [index for index in processes if entries[index].get("way") != way]
    if not others:
        return []
    start = next(index for index in processes if index > others[-1])
    return [entry["asked"] for entry in entries[:start] if "asked" in entry]


def _last_sign(folder: Path) -> float:
    """When a process of this search last noted that it was at work; 0 where none did."""
    try:
        return float(_sign(folder).read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):  # killed before its first sign, or while it wrote one
        return 0.0


def _sign(folder: Path) -> Path:
    return folder / "alive"


def _result(folder: Path, number: int) -> Path:
    return folder / f"result-{number}.json"


class Journal:
    """Lines of JSON, each after its checksum; a line is on the disk itself before anything follows from it.

    One process at a time writes it.
    """

    def __init__(self, file: Path) -> None:
        """Take up or begin a journal. Raises `JobError` where a line is damaged."""
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        content = file.read_bytes() if file.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]  # a line cut short was never acted upon
        self.entries: list[Entry] = list(self._read(whole))
        self._descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.ftruncate(self._descriptor, len(whole))

    def append(self, entry: Entry) -> None:
        """Keep an entry with its time. Raises `JobError` where it cannot be written; the journal is then as it was."""
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
