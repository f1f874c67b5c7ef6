"""One job at a time works in an output; after a kill, the next job with the same recipe goes on with its MLflow run."""

from __future__ import annotations

import fcntl
import json
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cluster.delivery import LOCAL
from cluster.session import JobError
from configs.folder import WORK, write_synced

UNNAMED_SECONDS = 1.0  # within which a new owner of the lock has written its name


@contextmanager
def only_job(output: Path, name: str, field: str = "output") -> Iterator[None]:
    """Hold `output`, which `field` of the recipe names, for this process. Raises `JobError` that names who holds it.

    The lock ends with the process, however that ends, so the next job takes over from a dead one.
    """
    path = output / WORK / "job.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JobError(
                f"{field}: {output}: {_owner(path)} works there; wait for it, stop it, or give another {field}"
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
class OpenRun:
    """An MLflow run, by its local id, that a job with the same recipe goes on with."""

    key: str
    recipe: str  # digest
    parent: str | None
    ended: bool = False


def begin(output: Path, label: str, recipe: str, parent: str | None) -> tuple[str, str | None]:
    """Local ids of the run to open or go on with, and of a run of another recipe or parent that nobody goes on with."""
    before = _read(_path(output, label))
    same = before is not None and (before.recipe, before.parent) == (recipe, parent)
    key = before.key if before and same else f"{LOCAL}{uuid.uuid4().hex}"
    _write(output, label, OpenRun(key, recipe, parent))
    return key, before.key if before and not same and not before.ended else None


def end(output: Path, label: str) -> None:
    """Note that the run has ended, and was not killed.

    The note of a child run stays until its parent ends: a job that goes on after a kill does its finished stages again,
    to find that there is nothing to do, in the same runs.
    """
    path = _path(output, label)
    if (run := _read(path)) and run.parent:
        _write(output, label, replace(run, ended=True))
    else:
        path.unlink(missing_ok=True)


def broken_off(output: Path, label: str, parent: str) -> bool:
    """Whether the last run of this label is a child of `parent` that was killed before its end."""
    run = _read(_path(output, label))
    return run is not None and run.parent == parent and not run.ended


def below(output: Path, *, forget: bool) -> list[str]:
    """Local ids of child runs that have begun and not ended; with `forget` nobody goes on with any child run."""
    runs = {path: _read(path) for path in sorted((output / WORK).glob("run-*.json"))}
    children = {path: run for path, run in runs.items() if run and run.parent}
    for path in children if forget else ():
        path.unlink()
    return [run.key for run in children.values() if not run.ended]


def _write(output: Path, label: str, run: OpenRun) -> None:
    path = _path(output, label)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_synced(path, json.dumps(asdict(run)))


def _path(output: Path, label: str) -> Path:
    return output / WORK / f"run-{re.sub(r'[^0-9A-Za-z_]+', '-', label)}.json"


def _read(path: Path) -> OpenRun | None:
    try:
        return OpenRun(**json.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):  # none, or damaged: nothing to go on with
        return None
