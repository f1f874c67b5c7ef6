"""How the rows of a task become tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pyarrow
    from tokenizers import Tokenizer


class Plan(NamedTuple):
    """How the rows of a task become tokens."""

    key: dict[str, Any]  # what the tokens depend on beside the rows
    make: Callable[[], tuple[Tokenizer, Callable[..., pyarrow.Table]]]  # of a table and `at`, see `write_shards`
    labels: list[str]
    facts: dict[str, Any]  # further entries of the manifest
