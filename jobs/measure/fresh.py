"""A process of its own: nothing loaded before it, threads pinned, ended with the one that it works for."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster import quiet
from cluster.session import JobError

SECONDS = 3600  # that a process may take, waiting for quiet included
PARENT = "SLIMCART_MEASURED_FOR"  # process that a fresh one works for
PR_SET_PDEATHSIG = 1  # of linux/prctl.h

log = logging.getLogger(__name__)


def run_fresh(module: str, text: str, threads: int, what: str, seconds: float = SECONDS) -> Any:
    """The JSON that `module` prints last when it reads `text`, its math libraries held to `threads` threads.

    Raises `JobError` with its last words, or where it takes longer than `seconds`.
    """
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        PARENT: str(os.getpid()),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]),
    }
    environment.pop("OMP_WAIT_POLICY", None)  # pinned to a core of its own; waiting threads may spin
    said: list[str] = []
    try:
        with _heard(said) as pipe:
            done = subprocess.run(
                [sys.executable, "-m", module],
                input=text,
                stdout=subprocess.PIPE,
                stderr=pipe,
                text=True,
                env=environment,
                timeout=seconds,
                check=False,
            )
    except subprocess.TimeoutExpired:
        raise JobError(f"measuring {what} was not done after {seconds:g} s, and was ended") from None
    if done.returncode:
        raise JobError(f"measuring {what} failed: {(said or [f'exit code {done.returncode}'])[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


@contextmanager
def _heard(said: list[str]) -> Iterator[int]:
    """A pipe whose lines are `said` when the block is over; what a process says that waits is logged at once."""
    read, write = os.pipe()

    def hear() -> None:
        with open(read, encoding="utf-8", errors="replace") as lines:
            for line in filter(None, map(str.strip, lines)):
                said.append(line)
                if line.startswith("waiting"):
                    log.warning(line)

    listener = threading.Thread(target=hear, daemon=True)
    listener.start()
    try:
        yield write
    finally:
        os.close(write)
        listener.join()


def end_with_parent() -> None:
    """Have this process killed when the one it works for dies: it would go on to hold the locks of `cluster.quiet`.

    The kernel does so, at the end of the very thread that started it, which waits for it in `run_fresh`.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    parent = os.environ.pop(PARENT, None)
    if parent and os.getppid() != int(parent):  # it died before that
        sys.exit(f"process {parent}, which this one works for, has ended")


def pin(threads: int) -> None:
    """Keep to as many cores as there are threads: a thread that wanders leaves its cache behind."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, quiet.take_cores(threads))
