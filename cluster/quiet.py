"""Latency is measured in quiet: nothing else that enters through this module runs on the cores of a measurement.

A measurement has its cores to itself, with all parts of their physical cores; work goes on on the others. Each physical
core has two advisory file locks, a turnstile and a room, which the system frees when their holder dies. A worker passes
the turnstile and holds the room, shared. A measurement holds the turnstile, then the room, alone (the "no starve"
solution of A. Downey, The Little Book of Semaphores, section 4.2.5): a room in which workers take turns would never be
empty without a turnstile. Work that finds a turnstile closed does not wait there but leaves those cores for as long as
its step takes; it waits only where all its cores are measured on. Turnstiles, then rooms, are taken in the order of
their cores, so that nobody waits in a circle. Processes that take cores of their own also do so by such locks.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import stat
import tempfile
import threading
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from configs.waiting import Reason, waiting

TOPOLOGY = Path("/sys/devices/system/cpu")
_MOVED = threading.Lock()  # held by the step that has moved the threads of this process


@contextlib.contextmanager
def at_work() -> Iterator[None]:
    """Do one step of work, beside which no latency may be measured, on cores that nobody measures on.

    All threads of this process keep to these cores until the step is over. Waits while there is no such core. Do not
    wait inside for another process that enters here.
    """
    cores = _cores()
    with contextlib.ExitStack() as rooms:
        free = _enter(cores, rooms)
        with _kept_to(free, cores):
            yield


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """Do a step whose partner process is `at_work` meanwhile: off the cores of measurements, without waiting.

    It must not wait, since its partner waits for it in the step.
    """
    cores = _cores()
    free = {core for leader, group in _groups(cores).items() if not _closed(leader) for core in group}
    with _kept_to(free or cores, cores):
        yield


@contextlib.contextmanager
def measuring(of: str, threads: int | None = None) -> Iterator[None]:
    """Measure alone on the cores of this process, among all processes that enter through this module.

    `of`: what is measured, as others are told that wait for it. The threads of a process with more than `threads` cores
    are pinned to so many cores of their own meanwhile.
    """
    with contextlib.ExitStack() as held:
        if threads is not None and len(_cores()) > threads:
            cores, descriptors = _take(threads)
            for descriptor in descriptors:
                held.callback(os.close, descriptor)
            held.enter_context(_kept_to(set(cores), _cores()))
        leaders = sorted(_groups(_cores()))
        for leader in leaders:
            turnstile = held.enter_context(_lock(f"turnstile-{leader}", fcntl.LOCK_EX, _measured(leader)))
            with contextlib.suppress(OSError):  # a full disk stops no measurement
                os.ftruncate(turnstile, 0)
                os.pwrite(turnstile, f"a measurement of {of} (process {os.getpid()})".encode(), 0)
        for leader in leaders:
            held.enter_context(_lock(f"room-{leader}", fcntl.LOCK_EX, _worked_on(leader)))
        yield


def take_cores(count: int) -> list[int]:
    """Take `count` of this process's cores for itself until it ends; shared cores only where too few are left.

    Cores come first whose physical core has no other part taken.
    """
    return _take(count)[0]


def _take(count: int) -> tuple[list[int], list[int]]:
    """(cores, descriptors of the locks that make them this process's own)."""
    allowed = sorted(_cores(), reverse=True)
    taken: dict[int, int] = {}  # core: descriptor
    for alone in (True, False):
        for core in allowed:
            if len(taken) < count and core not in taken and not (alone and _is_shared(core, taken)):
                with contextlib.suppress(BlockingIOError):
                    taken[core] = _hold(f"core-{core}")
    shared = [core for core in allowed if core not in taken]
    return [*taken, *shared[: count - len(taken)]], list(taken.values())


def _is_shared(core: int, taken: Container[int]) -> bool:
    """Whether another part of its physical core is taken, by us or by others."""
    return any(each in taken or _is_held(f"core-{each}") for each in _siblings(core) - {core})


def _hold(name: str) -> int:
    """A descriptor that holds the lock until it is closed. Raises `BlockingIOError` where another holds it."""
    descriptor = _open(name)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    return descriptor


def _enter(cores: set[int], rooms: contextlib.ExitStack) -> set[int]:
    """Enter the rooms of `cores` that are not measured on, at least one; returns the cores of these rooms."""
    groups = _groups(cores)
    entered = [leader for leader in sorted(groups) if _has_entered(leader, rooms, wait=False)]
    if not entered:
        entered = [min(groups)]
        _has_entered(entered[0], rooms, wait=True)
    return {core for leader in entered for core in groups[leader]}


def _has_entered(leader: int, rooms: contextlib.ExitStack, wait: bool) -> bool:
    """Enter a room; False, without `wait`, where its turnstile is closed."""
    try:
        reason = _measured(leader) if wait else None
        with _lock(f"turnstile-{leader}", fcntl.LOCK_SH, reason):
            rooms.enter_context(_lock(f"room-{leader}", fcntl.LOCK_SH, _measured(leader)))
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _kept_to(keep: set[int], cores: set[int]) -> Iterator[None]:
    """Keep all threads of this process, which may use `cores`, to the cores `keep`."""
    if keep == cores or not _MOVED.acquire(blocking=False):
        yield
        return
    try:
        before: dict[int, set[int]] = {}
        for thread in _threads():
            with contextlib.suppress(OSError):  # it has ended
                before[thread] = os.sched_getaffinity(thread)
                os.sched_setaffinity(thread, before[thread] & keep or keep)
        try:
            yield
        finally:
            for thread in _threads():
                with contextlib.suppress(OSError):
                    os.sched_setaffinity(thread, before.get(thread, cores))
    finally:
        _MOVED.release()


def _threads() -> list[int]:
    return [int(each) for each in os.listdir("/proc/self/task")]


def _cores() -> set[int]:
    """The cores that this thread may use; one for all where the system does not say (macOS)."""
    return set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else {0}


def _groups(cores: Iterable[int]) -> dict[int, set[int]]:
    """{first part of a physical core: its parts that are among `cores`}."""
    groups: dict[int, set[int]] = {}
    for core in cores:
        groups.setdefault(min(_siblings(core)), set()).add(core)
    return groups


def _siblings(core: int) -> frozenset[int]:
    return _read_siblings(TOPOLOGY / f"cpu{core}" / "topology" / "thread_siblings_list", core)


@functools.cache
def _read_siblings(file: Path, core: int) -> frozenset[int]:
    """The parts of a core's physical core, itself among them: `0,4` or `0-1` in Linux's words."""
    try:
        parts = [part.partition("-") for part in file.read_text(encoding="ascii").strip().split(",")]
        return frozenset(each for low, _, high in parts for each in range(int(low), int(high or low) + 1)) | {core}
    except (OSError, ValueError):  # another system, or one that does not say
        return frozenset({core})


def _closed(leader: int) -> bool:
    """Whether somebody measures on a physical core, or is about to."""
    return _is_held(f"turnstile-{leader}", fcntl.LOCK_SH)


def _is_held(name: str, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        with _lock(name, kind):
            return False
    except BlockingIOError:
        return True


@contextlib.contextmanager
def _lock(name: str, kind: int, reason: Reason | None = None) -> Iterator[int]:
    """Hold a lock, after a wait for `reason`; without one raises `BlockingIOError` where another holds it."""
    descriptor = _open(name)
    try:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if reason is None:
                raise
            with waiting(reason):
                fcntl.flock(descriptor, kind)
        yield descriptor
    finally:
        os.close(descriptor)


def _measured(leader: int) -> Reason:
    """Why somebody waits before the turnstile of a physical core: the measurement that holds it."""
    file = _folder() / f"turnstile-{leader}.lock"
    return lambda: f"waiting: {file.read_text(encoding='utf-8', errors='replace') or 'a measurement'}"


def _worked_on(leader: int) -> Reason:
    """Why a measurement waits before the room of a physical core."""
    return lambda: f"waiting: work on core {leader}, to end its step; a measurement has the core to itself"


def _open(name: str) -> int:
    return os.open(_folder() / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _folder() -> Path:
    """The folder of this user's locks. Raises `JobError` where somebody else made it, or may enter it.

    In the shared folder itself others could hold a lock by its name, or lay one of their own in its place.
    """
    folder = Path(tempfile.gettempdir(), f"slimcart-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        from cluster.session import JobError  # here alone: who enters must not wait for what that imports

        raise JobError(
            f"{folder}: not a folder of this user alone, and locks lie there; remove it, or set TMPDIR to a folder of "
            "your own for the cluster and its jobs"
        )
    return folder
