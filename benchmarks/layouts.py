"""Worker groups against one another: Ray Train and torchrun, pipeline stages, data parallel workers. Two cores.

    SLIMCART_DATA=<folder> python -m benchmarks.layouts [ray] [data] [pipeline]

Fine-tunes the packaged MiniLM on rows of intent_banking77 in float32; groups take turns, and the figure is rows per
second over the same rows. Without a name all rows are measured.
"""

from __future__ import annotations

import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from benchmarks._compare import compare, exit_code, missing
from benchmarks._turns import Turn
from cluster import local, session
from configs.schema.engine import EngineSpec

STAGES = 2
MICRO_BATCHES = (4, 8, 16)
ROWS = 640
MICRO_TOKENS = 512  # enough work that what each micro-batch costs besides does not count
UNIT, PEER = "rows/s", f"torchrun of torch {torch.__version__}"


def main(chosen: list[str]) -> int:
    """Measure all rows, or the chosen ones."""
    data = os.environ.get("SLIMCART_DATA")
    os.environ |= {"RAY_worker_niceness": "0"}  # torchrun's processes are not nice
    with tempfile.TemporaryDirectory() as scratch:
        for name, measure in {"ray": ray, "data": data_parallel, "pipeline": pipeline}.items():
            if not chosen or name in chosen:
                measure(Path(scratch), data)
    return exit_code()


def ray(place: Path, data: str | None) -> None:
    """A worker that Ray Train started against one that torchrun started."""
    name, bar, whole = "one worker of 2 threads: Ray Train / torchrun", 0.95, spec(2, 512)
    if not data:
        missing(name, UNIT, "SLIMCART_DATA is not set", bar)
        return
    started = local.up(place / "state")
    os.environ |= started.environment()
    from ray import shutdown  # Ray reads some of these once

    try:
        session.connect()
        ours = Turn(place / "ray", data, 256, whole, by_ray=True)
        versus(name, ours, Turn(place / "torchrun", data, 256, whole), bar)
        shutdown()
    finally:
        local.down(place / "state")


def data_parallel(place: Path, data: str | None) -> None:
    """Two workers against threads, with batches worth splitting: each step exchanges all gradients and weights."""
    name, bar = "two data-parallel workers of 1 thread / one process of 2 threads", 0.9
    if not data:
        missing(name, UNIT, "SLIMCART_DATA is not set", bar)
        return
    two = Turn(place / "two", data, ROWS, spec(1, 4096, workers=2))
    versus(name, two, Turn(place / "threads", data, ROWS, spec(2, 4096)), bar)


def pipeline(place: Path, data: str | None) -> None:
    """Two stages against one process that does as many micro-batches one after the other, alone or beside another."""
    for m in MICRO_BATCHES:
        name, bar = f"{STAGES} pipeline stages of 1 thread / one process of 1 thread, of {m} micro-batches", 0.85
        ideal = STAGES * m / (m + STAGES - 1)
        beside = f"{name}, while another does the same"
        if not data:
            for each in (name, beside):
                missing(each, UNIT, "SLIMCART_DATA is not set", bar)
            continue
        micro = {"tokens": MICRO_TOKENS * m, "accumulation": m}
        stages = Turn(place / f"stages{m}", data, ROWS, spec(1, **micro, workers=STAGES, pipeline_stages=STAGES))
        one, other = (Turn(place / f"whole{m}{each}", data, ROWS, spec(1, **micro)) for each in "ab")
        shown = f", / {ideal:.2f}"
        compare(name + shown, UNIT, lambda: stages() / ideal, one, PEER, bar)  # noqa: B023 - called at once
        compare(beside + shown, UNIT, lambda: stages() / ideal, lambda: both(one, other), PEER, bar)  # noqa: B023
        for group in (stages, one, other):
            group.stop()


def both(one: Turn, other: Turn) -> float:
    """Rows per second of a process while another one keeps the second core busy: caches and memory are shared."""
    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(lambda turn: turn(), (one, other))) / 2


def spec(threads: int, tokens: int, **fields: int) -> EngineSpec:
    """In float32."""
    fields |= {"cpus_per_worker": threads, "tokens_per_batch": tokens, "max_failures": 0}
    return EngineSpec.model_validate({"precision": "fp32", **fields})


def versus(name: str, ours: Turn, theirs: Turn, bar: float) -> None:
    """Our rows per second against theirs; ends both groups."""
    compare(name, UNIT, ours, theirs, PEER, bar)
    ours.stop()
    theirs.stop()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
