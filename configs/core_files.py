"""Keeps what a process holds in memory, customers' texts among it, out of a file when the process crashes."""

from __future__ import annotations

import resource


def forbid() -> None:
    """Have this process, and those that it starts, leave no core file; they cannot take it back."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
