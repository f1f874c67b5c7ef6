"""Rows of the Hugging Face Hub."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.given import reason
from configs.loader import UsageError

NO_EXTRA = "reading from the Hub needs slimcart installed with its extra 'hub'"
HUB_SECONDS = 10.0  # time for the Hub to say whether it has a data set


def check(name: str, revision: str | None, at: str) -> None:
    """Refuse a data set that the Hub does not know, or that is a path to nothing, as far as can be told."""
    if importlib.util.find_spec("datasets") is None:
        raise UsageError(f"{at}: {NO_EXTRA}")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        HfApi().dataset_info(name, revision=revision, timeout=HUB_SECONDS)
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise UsageError(f"{at}: neither a file here nor a data set on the Hub") from None
    except Exception:  # noqa: BLE001 - no network, a Hub in trouble: the data set may be in the cache
        if Path(name).parent.is_dir():
            raise UsageError(f"{at}: no such file, and the Hub does not answer") from None


def records(name: str, revision: str | None, split: str, at: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, record) of each row of a split. Raises `UsageError`."""
    try:
        import datasets
    except ImportError:
        raise UsageError(f"{at}: {NO_EXTRA}") from None
    try:
        table = datasets.load_dataset(name, split=split, revision=revision)
    except Exception as error:  # noqa: BLE001 - the library raises anything from ValueError to connection errors
        raise UsageError(f"{at}: the Hub gave no split {split!r}: {reason(error)}") from None
    for number, record in enumerate(table, 1):
        yield f"{at}: row {number}", dict(record)
