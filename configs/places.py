"""Places that a recipe names: paths, URLs, ids of the Hub, and `env:NAME`, which stands for what a variable holds.

The recipe keeps `env:NAME`, and so does whatever shows or stores a recipe: a dashboard's entrypoint, MLflow, a
manifest, a message. Only who opens the place asks for the value, which `shown_urls` hides from then on.
"""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.loader import UsageError
from configs.schema.data import DATA_FILE, HUB_ID
from configs.shown_urls import hide

BEGINS = "env:"
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PREFIXED = re.compile(r"^[a-z][a-z0-9]*:")  # https://..., embedded:..., package:..., models:/...
FIELDS = (
    "data.train",
    "data.validation",
    "data.test",
    "data.unlabelled",
    "score.input",
    "teacher.model",
    "student.model",
)
FOLDERS = (
    "output",
    "bundle",
    "teacher.bundle",
    "cascade.first",
    "cascade.second",
    "reply.decoder",
    "score.output",
    "serving.keys",
)  # results name these

_used: set[str] = set()  # names of the variables whose values this process has asked for


def absolute(source: str | None, folder: Path, may_be_id: bool = True) -> str | None:
    """A local path made absolute under `folder`; a URL, a package or a Hub id stays as it is.

    `owner/name` is a Hub id where no such path exists and it does not end like a data file.
    """
    if source is None or PREFIXED.match(source):
        return source
    path = folder / source
    is_id = may_be_id and HUB_ID.match(source) and not DATA_FILE.search(source) and not path.exists()
    return source if is_id else str(path)


def resolved(place: str, field: str) -> str:
    """The place itself, or what the variable holds that it names. Raises `UsageError`, naming `field`."""
    if not place.startswith(BEGINS):
        return place
    name = place.removeprefix(BEGINS)
    if not NAME.fullmatch(name):
        raise UsageError(f"{field}: {place}: not {BEGINS}NAME, where NAME is an environment variable")
    if not (value := os.environ.get(name, "").strip()):
        raise UsageError(
            f"{field}: {place}: the environment variable {name} is not set where the job runs; set it there (for a "
            "submitted job: where the cluster is started), or give the place itself"
        )
    is_id = HUB_ID.match(value) and not DATA_FILE.search(value)
    if value.startswith(BEGINS) or not (value.startswith("/") or PREFIXED.match(value) or is_id):
        raise UsageError(f"{field}: {place}: {name} holds no absolute path, URL or Hub id; let it hold one")
    _used.add(name)
    hide(value, place)
    return value


def used() -> Sequence[str]:
    """The names of the variables that the other processes of a job need, too."""
    return sorted(_used)


def check_places(recipe: Any) -> None:
    """Raise `UsageError` where a variable is not set that a recipe names, or where it may name none."""
    for field in FOLDERS:
        if (_get(recipe, field) or "").startswith(BEGINS):
            raise UsageError(f"{field}: {_get(recipe, field)}: results show it; give the path itself")
    for field in FIELDS:
        if place := _get(recipe, field):
            resolved(place, field)


def _get(recipe: Any, field: str) -> str | None:
    return operator.attrgetter(field)(recipe)
