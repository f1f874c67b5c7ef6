"""Latency is measured in quiet: while one process measures, the others of this machine wait between two steps.

Readers and writers over two advisory file locks, which the system frees when their holder dies. A plain shared lock
would starve the measurement: two trainings always overlap. So who measures keeps the turnstile through which everyone
enters (the "no starve" solution of A. Downey, The Little Book of Semaphores, section 4.2.5). Those who keep to cores of
their own tell each other by such locks, too.
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


def take_cores(count: int) -> list[int]:
    """`count` of this process's cores, its own until it ends; shared ones only where too few are left."""
    allowed = sorted(os.sched_getaffinity(0), reverse=True)
    taken: list[int] = []
    for core in allowed:
        if len(taken) == count:
            break
        descriptor = _open(f"core-{core}")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held until the process ends
            taken.append(core)
        except BlockingIOError:
            os.close(descriptor)
    shared = [core for core in allowed if core not in taken]
    return taken + shared[: count - len(taken)]


@contextlib.contextmanager
def _lock(name: str, kind: int) -> Iterator[int]:
    descriptor = _open(name)
    try:
        fcntl.flock(descriptor, kind)
        yield descriptor
    finally:
        os.close(descriptor)


def _open(name: str) -> int:
    path = Path(tempfile.gettempdir(), f"slimcart-{os.getuid()}-{name}.lock")
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
