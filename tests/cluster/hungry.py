"""A training worker that takes memory until it is killed: python -m tests.cluster.hungry <folder> <restarts>.

With a restart it goes on the second time. Prints what came of it, as the last line.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from cluster import launch, session
from cluster.session import JobError
from configs.schema.engine import EngineSpec

PIECE = 64 << 20  # bytes


def eat(config: dict[str, Any]) -> str:
    """Runs on the worker."""
    before = Path(config["before"])
    if before.exists():
        return "went on"
    if config["restarts"]:
        before.touch()
    eaten: list[bytearray] = []
    while True:
        eaten.append(bytearray(b"x") * PIECE)
        time.sleep(0.05)  # Ray looks four times a second


if __name__ == "__main__":
    folder, restarts = Path(sys.argv[1]), int(sys.argv[2])
    session.connect()
    told = {"before": str(folder / "before"), "restarts": restarts}
    try:
        said = launch.fit(
            "tests.cluster.hungry:eat", told, EngineSpec(cpus_per_worker=1, max_failures=restarts), folder
        )
    except JobError as error:
        said = str(error)
    print(said)
