"""A stage: a step of the way whose result is a folder, found where its key says that nothing changed, else made."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from cluster import resume
from cluster.session import JobError
from configs.folder import only_maker
from configs.schema.recipe import Recipe
from jobs.job import Way

T = TypeVar("T")

log = logging.getLogger(__name__)


def _nothing(way: Way, value: Any) -> None:
    """There is nothing to tell."""


@dataclass(frozen=True)
class Stage(Generic[T]):
    """What a folder is made of, and how it is made, opened and told. A record: `made` does the rest."""

    name: str  # the verb that makes it, and the label of its MLflow run
    folder: Callable[[Recipe], Path]
    key: Callable[[Way], str]  # digest of what it depends on, and of how its code behaves (`jobs.versions`)
    open: Callable[[Way, Path, str], T | None]  # what lies there, whole; None where it is not of this key
    make: Callable[[Way, Path, str], object]  # leaves the folder whole, this key in its manifest
    needs: tuple[Stage[Any], ...] = ()  # opened, or made, before it
    tell: Callable[[Way, T], object] = _nothing  # metrics, tags and artifacts, to `way.run`; may be told twice


def made(way: Way, stage: Stage[T]) -> T:
    """What the stage's folder holds: found whole and of the stage's key, or made; one maker at a time.

    It is told to MLflow where it was made, where it is what the job is for, and where the job before was killed before
    it was told. A stage that the job merely needs is not told, unless the job tracks each of its stages.
    """
    if stage.name in way.values:
        return way.values[stage.name]
    for need in stage.needs:
        made(way, need)
    folder = stage.folder(way.recipe)
    with only_maker(folder):
        key = found = None
        if folder.exists() and not (way.recipe.again and way.verb == stage.name):
            key = stage.key(way)
            found = stage.open(way, folder, key)
        if found is not None:
            log.info("%s: not run again, its inputs did not change: %s", stage.name, folder)
        if found is None or way.verb == stage.name or _broken_off(way, stage):
            with _told(way, stage) as (inner, tells):
                if found is None:  # where no folder is there, what a key is made of is read in the stage's run alone
                    key = key or stage.key(inner)
                    stage.make(inner, folder, key)
                    found = stage.open(inner, folder, key)
                if found is None:
                    raise JobError(f"{folder}: {stage.name} made it, and it is not what it should be")
                if tells:
                    stage.tell(inner, found)
    way.values[stage.name] = found
    return found


def _broken_off(way: Way, stage: Stage[Any]) -> bool:
    """Whether the job before was killed between the stage's folder and the end of the stage's MLflow run."""
    return way.tracked and resume.broken_off(way.output, stage.name, way.run.id)


@contextmanager
def _told(way: Way, stage: Stage[Any]) -> Iterator[tuple[Way, bool]]:
    """(the way that the stage is made on, whether its MLflow run is told of it)."""
    if way.tracked:
        with way.below(stage.name) as inner:
            yield inner, True
    else:
        yield way, way.verb == stage.name
