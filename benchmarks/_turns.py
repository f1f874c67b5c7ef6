"""Worker groups that train when they are told to, so that groups of several kinds take turns.

A group is started by torchrun or by Ray Train and stays; `Turn` asks it for one pass over its batches. They talk
through files in a folder: `go-<n>` asks, `done-<n>` answers with seconds, `stop` ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cluster import launch
from cluster.launch import WORKER_ENVIRONMENT
from configs.folder import write_synced
from configs.schema.engine import EngineSpec

POLL_SECONDS = 0.02
PATIENCE_SECONDS = 300


class Turn:
    """A group of workers; each call lets it train over its batches once and returns rows per second."""

    def __init__(self, folder: Path, data: str, rows: int, spec: EngineSpec, by_ray: bool = False) -> None:
        folder.mkdir()
        self._folder, self._turns = folder, 0
        told = {"folder": str(folder), "data": data, "rows": rows, "spec": spec.model_dump()}
        if by_ray:
            arguments = ("benchmarks._turns:work", told, spec, folder / "ray")
            thread = threading.Thread(target=launch.fit, args=arguments, daemon=True)
            thread.start()
            self._end: Callable[..., object] = thread.join
            return
        own = {"OMP_NUM_THREADS": str(spec.cpus_per_worker), "DS_ACCELERATOR": "cpu"}
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={spec.workers}"),
                *("-m", "benchmarks._turns", json.dumps(told)),
            ],
            env=os.environ | WORKER_ENVIRONMENT | own,
        )
        self._end = process.wait

    def __call__(self) -> float:
        self._turns += 1
        (self._folder / f"go-{self._turns}").touch()
        return float(_await(self._folder / f"done-{self._turns}").read_text())

    def stop(self) -> None:
        """End the group, and wait for its end: it looks for the file as long as its folder is there."""
        (self._folder / "stop").touch()
        self._end(timeout=PATIENCE_SECONDS)


def work(told: dict[str, Any]) -> None:
    """Runs on every worker: a pass over the batches whenever it is asked for."""
    import torch
    import torch.distributed

    from benchmarks.training import Rows, Side

    folder, spec = Path(told["folder"]), EngineSpec.model_validate(told["spec"])
    torch.set_num_threads(spec.cpus_per_worker)
    data = Rows(Path(told["data"]), "intent_banking77", told["rows"])
    side = Side(data, full(data.by_tokens(spec.tokens_per_batch), spec.tokens_per_batch), spec)
    turn = 0
    while True:
        turn += 1
        if _await(folder / f"go-{turn}", folder / "stop").name == "stop":
            return
        rows_per_second = side()
        torch.distributed.barrier()
        if torch.distributed.get_rank() == 0:
            write_synced(folder / f"done-{turn}", str(rows_per_second))


def full(batches: list[tuple[np.ndarray, int]], tokens: int) -> list[tuple[np.ndarray, int]]:
    """Without the batches that the ends of a window leave small: they would cost a round as much as full ones."""
    return [(rows, length) for rows, length in batches if len(rows) * length > 0.8 * tokens]


def _await(*paths: Path) -> Path:
    """The first of some files that is there. Raises `TimeoutError`."""
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        for path in paths:
            if path.exists():
                return path
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"{paths[0]}: nothing came in {PATIENCE_SECONDS} s")


if __name__ == "__main__":
    import torch.distributed

    torch.distributed.init_process_group("gloo")
    work(json.loads(sys.argv[1]))
