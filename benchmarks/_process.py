"""A benchmark's own process as a training worker's."""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed

from cluster.launch import WORKER_ENVIRONMENT
from jobs.measure.fresh import pin


def alone(module: str, *arguments: str) -> None:
    """Make this process, or `python -m <module> <arguments>` in its place, the one worker of a group, on all cores.

    Starts it again where its environment is not that of workers: some of that is read when a process starts.
    """
    if missing_here := {name: value for name, value in WORKER_ENVIRONMENT.items() if os.environ.get(name) != value}:
        os.execve(  # noqa: S606
            sys.executable, [sys.executable, "-m", module, *arguments], {**os.environ, **missing_here}
        )
    os.environ |= {"LOCAL_RANK": "0", "DS_ACCELERATOR": "cpu"}
    torch.set_num_threads(os.cpu_count() or 1)
    store = torch.distributed.HashStore()  # pyright: ignore[reportPrivateImportUsage] - public in torch's reference
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)


def one_thread(module: str) -> None:
    """Keep this process, started as `python -m <module>`, to one thread on one core; starts it again for the former."""
    wanted = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(  # noqa: S606
            sys.executable, [sys.executable, "-m", module], {**os.environ, **wanted}
        )
    torch.set_num_threads(1)
    pin(1)
