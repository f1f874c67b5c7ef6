"""Long runs that are recorded one by one, so that a measurement of hours goes on where it was interrupted."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks._compare import print_row
from cluster import local, tracking

RESULTS = Path("benchmarks/results")
USE_GPU = "engine.use_gpu=true"
VERSIONS = ("torch", "transformers", "deepspeed", "ray")


SEEDS = (0, 1, 2)


def options(parser: argparse.ArgumentParser) -> None:
    """What chooses points and seeds, and says where what is made stays."""
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, choices=SEEDS)
    parser.add_argument("--only", type=re.compile, default=re.compile(""), metavar="PATTERN")
    parser.add_argument("--state", type=Path, metavar="FOLDER")
    parser.add_argument("--also", nargs="+", default=(), metavar="FIELD=VALUE", help="of every recipe")
    parser.add_argument("--here", action="store_true", help="on the cluster of this shell, not on one of its own")


@contextmanager
def on_cluster(state: Path | None, needed: bool, here: bool) -> Iterator[Path]:
    """`state`, or a folder that goes away, with a cluster in it where one is `needed` and none is `here`."""
    with tempfile.TemporaryDirectory(prefix="slimcart-benchmark-") as scratch:
        place = state or Path(scratch)
        place.mkdir(parents=True, exist_ok=True)
        if needed and not here:
            os.environ |= local.up(place / "cluster").environment()
        try:
            yield place
        finally:
            local.down(place / "cluster")


class Record:
    """A file of JSON lines in `benchmarks/results`, one for each row and seed."""

    def __init__(self, name: str) -> None:
        self._file = RESULTS / f"{name}.jsonl"
        self._points: dict[tuple[str, int], dict[str, Any]] = {}
        self.measured: set[tuple[str, int]] = set()  # by this run
        if self._file.exists():
            for line in self._file.read_text(encoding="utf-8").splitlines():
                point = json.loads(line)
                self._points[point["row"], point["seed"]] = point

    def find(self, row: str, seed: int) -> dict[str, Any] | None:
        """What was recorded of a point; None where nothing was."""
        return self._points.get((row, seed))

    def add(self, row: str, seed: int, command: str, found: Mapping[str, float]) -> None:
        """Write a point, in place of what was recorded of it; the file is sorted."""
        self._points[row, seed] = {
            "row": row,
            "seed": seed,
            **{name: round(value, 5) for name, value in found.items()},
            "command": command,
            "device": torch.cuda.get_device_name() if USE_GPU in shlex.split(command) else "CPU",
            "code": tracking.code_version()[1],
            "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
        }
        self.measured.add((row, seed))
        RESULTS.mkdir(exist_ok=True)
        lines = [json.dumps(self._points[key]) for key in sorted(self._points)]
        aside = self._file.with_suffix(".partial")
        aside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        aside.replace(self._file)


def through(
    rows: Iterable[str],
    seeds: Sequence[int],
    record: Record,
    measure: Callable[[str, int], tuple[str, Mapping[str, float]]] | None,
    fill: bool,
) -> None:
    """Let `measure` give (command, figures) of points: with `fill` those not recorded, else the first seed anew.

    Without `measure` nothing is measured.
    """
    for seed in seeds if fill else seeds[:1]:
        for row in rows:
            if measure and not (fill and record.find(row, seed)):
                record.add(row, seed, *measure(row, seed))


def summarise(record: Record, row: str, unit: str, bar: float | None, seeds: Sequence[int]) -> None:
    """Print a row over all seeds: means of `ours` and `peer`; the mean, the least and the most of their ratio."""
    points = {seed: found for seed in seeds if (found := record.find(row, seed))}
    ratios = [each["ours"] / each["peer"] for each in points.values()]
    measured = [seed for seed in points if (row, seed) in record.measured]
    print_row(
        name=row,
        ours=round(statistics.fmean(each["ours"] for each in points.values()), 4) if points else None,
        peer=round(statistics.fmean(each["peer"] for each in points.values()), 4) if points else "nothing recorded",
        unit=unit,
        ratio=statistics.fmean(ratios) if points else None,
        spread=[round(min(ratios), 4), round(max(ratios), 4)] if points else None,
        runs=len(points),
        bar=bar,
        seeds_measured=measured,
        seeds_recorded=[seed for seed in points if seed not in measured],
    )


def verb(name: str, recipe: str, overrides: Sequence[str], log: Path) -> dict[str, float]:
    """Metrics of the RESULT line of `python -m jobs.<name>`; all that it says goes to the end of `log`."""
    with log.open("a", encoding="utf-8") as said:
        done = subprocess.run(
            [sys.executable, "-m", f"jobs.{name}", "--config", recipe, *overrides],
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            check=False,
        )
        said.write(done.stdout)
    if done.returncode:
        raise RuntimeError(f"jobs.{name} left with {done.returncode}; see {log}")
    return json.loads(done.stdout.splitlines()[-1].removeprefix("RESULT "))["metrics"]
