"""How the rows of a task become tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pyarrow
    from tokenizers import Tokenizer


class Made(NamedTuple):
    """What a plan needs to know the rows for."""

    tokenizer: Tokenizer
    tokenise: Callable[..., pyarrow.Table]  # of a table and `at`, see `write_shards`
    facts: dict[str, Any]  # entries of the manifest about what the tokenizer makes of the rows


class Plan(NamedTuple):
    """How the rows of a task become tokens."""

    key: dict[str, Any]  # what the tokens depend on beside the rows
    make: Callable[[], Made]
    labels: list[str]
    facts: dict[str, Any]  # further entries of the manifest
