"""Which job works in an output: one at a time, and which MLflow run the next one goes on with after a kill."""

from __future__ import annotations

import fcntl
import json
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.delivery import LOCAL
from cluster.session import JobError
from configs.folder import write_synced

WORK = ".work"
UNNAMED_SECONDS = 1.0  # within which a new owner of the lock has written its name


@contextmanager
def only_job(output: Path, name: str) -> Iterator[None]:
    """Hold `output` for this process. Raises `JobError` that names the job holding it.

    The lock ends with the process, however that ends, so a dead job's is taken over.
    """
    path = output / WORK / "job.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JobError(
                f"output: {output}: {_owner(path)} works there; wait for it, stop it, or give another output"
            ) from None
        file.truncate(0)
        file.write(name)
        file.flush()
        yield
        file.truncate(0)


def _owner(path: Path) -> str:
    deadline = time.monotonic() + UNNAMED_SECONDS
    while not (name := path.read_text(encoding="utf-8")) and time.monotonic() < deadline:
        time.sleep(0.01)
    return name or "another job"


@dataclass(frozen=True)
class Underway:
    """An MLflow run that has begun and not ended, by its local id; kept until it ends other than by a kill."""

    key: str
    recipe: str  # digest
    parent: str | None

    def is_of(self, recipe: str, parent: str | None) -> bool:
        """Whether a job with this recipe's digest goes on with the run."""
        return (self.recipe, self.parent) == (recipe, parent)


def begin(output: Path, label: str, recipe: str, parent: str | None) -> tuple[Underway, Underway | None]:
    """(run to go on with or to open, run of another recipe that nobody goes on with)."""
    path = _path(output, label)
    before = _read(path)
    if before and before.is_of(recipe, parent):
        return before, None
    underway = Underway(f"{LOCAL}{uuid.uuid4().hex}", recipe, parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_synced(path, json.dumps(asdict(underway)))
    return underway, before


def end(output: Path, label: str) -> None:
    """The run has ended: the same job would be a new one."""
    _path(output, label).unlink(missing_ok=True)


def children(output: Path) -> dict[Path, Underway]:
    """Runs below others that have begun and not ended, by their file."""
    found = {path: _read(path) for path in sorted((output / WORK).glob("run-*.json"))}
    return {path: each for path, each in found.items() if each and each.parent}


def _path(output: Path, label: str) -> Path:
    return output / WORK / f"run-{re.sub(r'[^0-9A-Za-z_]+', '-', label)}.json"


def _read(path: Path) -> Underway | None:
    try:
        return Underway(**json.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):  # none, or damaged: nothing to go on with
        return None
