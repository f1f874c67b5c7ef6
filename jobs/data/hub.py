"""Rows of the Hugging Face Hub."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

from cluster import hub
from configs.given import given
from configs.loader import UsageError

NO_EXTRA = "reading from the Hub needs slimcart installed with its extra 'hub'"


def check(name: str, revision: str | None, at: str) -> None:
    """Refuse a data set that neither the Hub nor its cache here has."""
    if importlib.util.find_spec("datasets") is None:
        raise UsageError(f"{at}: {NO_EXTRA}")
    hub.check("dataset", name, revision, at)


def records(name: str, revision: str | None, split: str, at: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, record) of each row of a split. Raises `UsageError`."""
    check(name, revision, at)
    import datasets

    with given(at, f"give a data set whose split {split!r} can be read", f"the Hub gave no split {split!r}"):
        for number, record in enumerate(datasets.load_dataset(name, split=split, revision=revision), 1):
            yield f"{at}: row {number}", dict(record)
