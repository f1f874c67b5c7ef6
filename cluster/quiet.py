"""Latency is measured in quiet: while one process measures, the others of this machine wait between two steps.

Readers and writers over two advisory file locks, which the system frees when their holder dies. A plain shared lock
would starve the measurement: two trainings always overlap. So who measures keeps the turnstile through which everyone
enters (the "no starve" solution of A. Downey, The Little Book of Semaphores, section 4.2.5).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def at_work() -> Iterator[None]:
    """Around one step of work beside which no latency may be measured. Waits while someone measures."""
    with _lock("turnstile", fcntl.LOCK_EX) as turnstile, _lock("room", fcntl.LOCK_SH):
        fcntl.flock(turnstile, fcntl.LOCK_UN)
        yield


@contextlib.contextmanager
def measuring() -> Iterator[None]:
    """Around a measurement: alone on this machine among all that enter through this module."""
    with _lock("turnstile", fcntl.LOCK_EX), _lock("room", fcntl.LOCK_EX):
        yield


@contextlib.contextmanager
def _lock(name: str, kind: int) -> Iterator[int]:
    path = Path(tempfile.gettempdir(), f"slimcart-{os.getuid()}-{name}.lock")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, kind)
        yield descriptor
    finally:
        os.close(descriptor)
