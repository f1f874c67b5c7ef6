"""A search in a process of its own, to be killed: python -m tests.tuning.searching <folder> <trials> <seed>."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from cluster import session
from configs.schema.search import SearchSpec
from tuning.search import search

SPACE = {"rate": {"loguniform": [1e-5, 1e-1]}, "sparsity": {"uniform": [0, 1]}}


def main(folder: Path, trials: int, seed: int) -> None:
    """Search; the trials go to `found.json` in the folder."""
    session.connect()

    def cost(values: dict[str, Any], trial_id: str) -> dict[str, float]:
        with (folder / "calls").open("a", encoding="utf-8") as calls:
            calls.write(f"{trial_id} {os.getpid()}\n")
        return {"score": -abs(values["sparsity"] - 0.3)}

    spec = SearchSpec.model_validate({"space": SPACE, "trials": trials, "seed": seed})
    found = search(cost, spec, folder / "search")
    made = json.dumps([[each.id, each.values, each.metrics, each.error] for each in found])
    (folder / "found.json").write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
