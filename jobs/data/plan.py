"""How the rows of a task become tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import pyarrow
    from tokenizers import Tokenizer

    from jobs.data.source import Row


class Made(NamedTuple):
    """What a plan needs to know the rows for."""

    tokenizer: Tokenizer
    tokenise: Callable[..., pyarrow.Table]  # of a table and `at`, see `write_shards`
    facts: dict[str, Any]  # entries of the manifest about what the tokenizer makes of the rows
    template: str | None = None  # the chat template that words them


class Learner(Protocol):
    """What training answers teach of a text that may go out."""

    def see(self, row: Row) -> None:
        """Take one training row in."""
        ...

    def learned(self) -> str:
        """The file `WORDING`."""
        ...


class Plan(NamedTuple):
    """How the rows of a task become tokens."""

    key: dict[str, Any]  # what the tokens depend on beside the rows
    make: Callable[[], Made]
    labels: list[str]
    facts: dict[str, Any]  # further entries of the manifest
