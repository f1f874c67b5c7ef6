"""Worker groups against one another: Ray Train and torchrun, pipeline stages, data parallel workers. Two cores.

    SLIMCART_DATA=<folder> python -m benchmarks.layouts

Fine-tunes the packaged MiniLM on rows of intent_banking77 in float32; groups take turns, and the figure is rows per
second over the same rows.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import ray
import torch

from benchmarks._compare import compare, missing
from benchmarks._turns import Turn
from cluster import local, session
from cluster.spec import EngineSpec

ROWS = 256
STAGES = 2
MICRO_BATCHES = (4, 8, 16)
TOKENS = 256  # of a micro-batch
BAR_RAY, BAR_PIPELINE, BAR_DATA = 0.95, 0.85, 0.9
NAMES = {
    "ray": "one worker of 2 threads: Ray Train / torchrun",
    "data": "two data-parallel workers of 1 thread / one process of 2 threads",
} | {m: f"{STAGES} pipeline stages of 1 thread / one process of 1 thread, of {m} micro-batches" for m in MICRO_BATCHES}


def spec(threads: int, parts: int = 1, **fields: int) -> EngineSpec:
    """Of `parts` micro-batches."""
    tokens = {"tokens_per_batch": TOKENS * max(parts, 2), "accumulation": parts}
    return EngineSpec.model_validate(
        {"precision": "fp32", "cpus_per_worker": threads, "max_failures": 0, **tokens, **fields}
    )


def main() -> int:
    """Measure all rows."""
    data, unit = os.environ.get("SLIMCART_DATA"), "rows/s"
    if not data:
        for name in NAMES.values():
            missing(name, unit, "SLIMCART_DATA is not set", BAR_PIPELINE if "pipeline" in name else BAR_DATA)
        return 0
    os.environ |= {"RAY_worker_niceness": "0"}  # torchrun's processes are not nice
    peer = f"torchrun of torch {torch.__version__}"
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)

        def versus(key: str | int, ours: Turn, theirs: Turn, bar: float, ideal: float = 1.0) -> None:
            compare(NAMES[key], unit, lambda: ours() / ideal, theirs, peer, bar)
            ours.stop()
            theirs.stop()

        started = local.up(place / "state")
        os.environ |= started.environment()
        try:
            session.connect()
            one = spec(2)
            ours = Turn(place / "ray", data, ROWS, one, by_ray=True)
            versus("ray", ours, Turn(place / "run", data, ROWS, one), BAR_RAY)
            ray.shutdown()
        finally:
            local.down(place / "state")
        two = Turn(place / "two", data, ROWS, spec(1, workers=2))
        versus("data", two, Turn(place / "threads", data, ROWS, spec(2)), BAR_DATA)
        for m in MICRO_BATCHES:
            ideal = STAGES * m / (m + STAGES - 1)
            stages = Turn(place / f"stages{m}", data, ROWS, spec(1, m, workers=STAGES, pipeline_stages=STAGES))
            versus(m, stages, Turn(place / f"whole{m}", data, ROWS, spec(1, m)), BAR_PIPELINE, ideal)
    return 0


if __name__ == "__main__":
    sys.exit(main())
