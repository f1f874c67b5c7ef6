"""Processes that train together, without Ray: where only what a worker computes is looked at."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import torch.multiprocessing


def in_group(function: Callable[[dict[str, Any]], Any], config: dict[str, Any], workers: int, folder: Path) -> Any:
    """What `function(config)` returns in the first of so many processes, each with one thread, joined by gloo."""
    spawn = torch.multiprocessing.spawn  # pyright: ignore[reportPrivateImportUsage] - public in torch's reference
    spawn(_member, (function, config, workers, folder), nprocs=workers)
    return pickle.loads((folder / "answer").read_bytes())  # noqa: S301 - written by our own process


def _member(rank: int, function: Callable[[dict[str, Any]], Any], config: Any, workers: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(workers), "DS_ACCELERATOR": "cpu"}
    torch.distributed.init_process_group("gloo", f"file://{folder / 'meeting'}", rank=rank, world_size=workers)
    answer = function(config)
    if rank == 0:
        (folder / "answer").write_bytes(pickle.dumps(answer))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    # DeepSpeed keeps groups of its own, and an interpreter that ends may abort in one's threads (pytorch#190489).
    os._exit(0)
