"""The processes of the local cluster: found again by session and marker, and ended with all that they started."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import psutil

from cluster.ports import is_free
from cluster.record import ClusterError, Part

GRACE_SECONDS = 8.0  # from SIGTERM to SIGKILL
MARKER = "SLIMCART_CLUSTER"  # in the environment of all that `up` starts: how `down` finds orphans


def members(part: Part) -> list[psutil.Process]:
    """The processes of one part, with orphans; never this process or its parents."""
    session = _session(part)
    running = {process for process in psutil.process_iter() if _belongs(process, part.marker, session)}
    with contextlib.suppress(psutil.NoSuchProcess):
        if root := process_of(part):
            running |= {root, *root.children(recursive=True)}
    own = psutil.Process()
    return [process for process in running - {own, *own.parents()} if lives(process)]


def listening(processes: list[psutil.Process]) -> set[tuple[str, int]]:
    """(address, port) of every TCP socket that the processes listen on."""
    addresses: set[tuple[str, int]] = set()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            for each in process.net_connections(kind="tcp"):
                if each.status == psutil.CONN_LISTEN and each.laddr:
                    addresses.add((each.laddr.ip, each.laddr.port))
    return addresses


def end(parts: list[Part]) -> bool:
    """SIGTERM, then SIGKILL, to every process of the parts, until none is left; False: there was none."""
    ended = False
    for _ in range(5):  # a process may have started another meanwhile
        processes = [process for part in parts for process in members(part)]
        if not processes:
            return ended
        ended = True
        ports = {port for _, port in listening(processes)}
        _signal(processes, signal.SIGTERM)
        _, stubborn = psutil.wait_procs(processes, timeout=GRACE_SECONDS)
        _signal(stubborn, signal.SIGKILL)
        psutil.wait_procs(stubborn, timeout=GRACE_SECONDS)
        deadline = time.monotonic() + GRACE_SECONDS
        while not all(map(is_free, ports)) and time.monotonic() < deadline:
            time.sleep(0.1)
    left = sorted(process.pid for part in parts for process in members(part))
    if left:
        raise ClusterError(f"processes {', '.join(map(str, left))} did not end")
    return ended


def process_of(part: Part) -> psutil.Process | None:
    """The running process of a part; None when it ended, even if another one has its pid now."""
    try:
        process = psutil.Process(part.pid)
        same = abs(process.create_time() - part.created) < 2  # seconds; the clock may be set meanwhile
        return process if same and lives(process) else None
    except psutil.NoSuchProcess:
        return None


def lives(process: psutil.Process) -> bool:
    """Whether a process runs; one that ended and waits for its parent (a zombie) does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _session(part: Part) -> int | None:
    """The session that the part leads, or led; None where its pid belongs to another process by now."""
    try:
        same = abs(psutil.Process(part.pid).create_time() - part.created) < 2
    except psutil.NoSuchProcess:
        same = True  # no new process gets a number that is still a session's
    return part.pid if same else None


def _belongs(process: psutil.Process, marker: str, session: int | None) -> bool:
    """Whether a process carries the marker, or has lost its environment and is of that session.

    Ray's agents and dashboard modules write their titles over their environment; jobs, which may leave the session,
    keep theirs.
    """
    with contextlib.suppress(psutil.Error, OSError):
        carried = process.environ().get(MARKER)
        return carried == marker if carried else os.getsid(process.pid) == session
    return False


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
