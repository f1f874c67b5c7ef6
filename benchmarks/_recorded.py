"""Long runs that are recorded one by one, so that a measurement of hours goes on where it was interrupted."""

from __future__ import annotations

import argparse
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
from cluster import local, version
from jobs.command import RESULT
from jobs.measure.machine import machine_kind
from jobs.versions import STAGES, libraries

RESULTS = Path("benchmarks/results")
USE_GPU = "engine.use_gpu=true"
SEEDS = (0, 1, 2)


def options(parser: argparse.ArgumentParser) -> None:
    """What chooses points and seeds, and says where what is made stays."""
    parser.add_argument("--record", action="store_true", help="make the points that are not recorded, or are void")
    parser.add_argument("--anew", action="store_true", help="with --record: make them all")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, choices=SEEDS)
    parser.add_argument("--only", type=re.compile, default=re.compile(""), metavar="PATTERN")
    parser.add_argument("--state", type=Path, metavar="FOLDER")
    parser.add_argument("--also", nargs="+", default=(), metavar="FIELD=VALUE", help="of every recipe")
    parser.add_argument("--here", action="store_true", help="on the cluster of this shell, not on one of its own")


def read_options(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """What was asked for; ends the process with 2 where it cannot be."""
    asked = parser.parse_args()
    if asked.record and asked.state is None:
        parser.error("--record: give --state FOLDER, where points lie until all of them are made")
    if asked.anew and not asked.record:
        parser.error("--anew: means nothing without --record")
    return asked


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
    """A file of JSON lines in `benchmarks/results`, one for each row and seed.

    A point holds the version of each stage that made it, and is void where one of them was raised since. New points lie
    in the folder `aside` until `land`: a tree in which results change would call their own code modified.
    """

    def __init__(self, name: str, aside: Path) -> None:
        self._file, self._aside = RESULTS / f"{name}.jsonl", aside / "results" / f"{name}.jsonl"
        self._recorded, self._made = _read(self._file), _read(self._aside)
        self.measured: set[tuple[str, int]] = set()  # by this run

    def find(self, row: str, seed: int) -> dict[str, Any] | None:
        """What was recorded of a point; None where nothing was, and where it is void."""
        point = self._last(row, seed)
        return point if point and not changes(point) else None

    def void(self, row: str, seed: int) -> dict[str, Any] | None:
        """What was recorded of a point that stages have changed since."""
        point = self._last(row, seed)
        return point if point and changes(point) else None

    def add(self, row: str, seed: int, stages: Sequence[str], command: str, found: Mapping[str, float]) -> None:
        """Write a point, in place of what was recorded of it; `stages` are those that made it."""
        self._made[row, seed] = {
            "row": row,
            "seed": seed,
            **{name: round(value, 5) for name, value in found.items()},
            "command": command,
            "device": torch.cuda.get_device_name() if USE_GPU in shlex.split(command) else "CPU",
            "machine": machine_kind(),
            "code": version.code_version()[1],
            "stages": {stage: STAGES[stage].version for stage in stages},
            "versions": dict(sorted(pair for stage in stages for pair in libraries(stage).items())),
        }
        self.measured.add((row, seed))
        _write(self._aside, self._made)

    def land(self) -> None:
        """Move what was made into the tree, once all that was asked for is."""
        if self._made:
            self._recorded |= self._made
            _write(self._file, self._recorded)
            self._aside.unlink()
            self._made = {}

    def _last(self, row: str, seed: int) -> dict[str, Any] | None:
        return self._made.get((row, seed)) or self._recorded.get((row, seed))


def changes(point: Mapping[str, Any]) -> str:
    """Which stages have changed since a point was made, in words; empty where none has."""
    if "stages" not in point:
        return "made before stages had versions"
    raised = {stage: (made, STAGES[stage].version) for stage, made in point["stages"].items()}
    return ", ".join(f"{stage} {made} -> {now}" for stage, (made, now) in raised.items() if made != now)


def through(
    rows: Iterable[str], asked: argparse.Namespace, record: Record, make: Callable[[str, int], None] | None
) -> None:
    """With `--record` let `make` add the points that are not recorded, or with `--anew` all."""
    if not asked.record or make is None:
        return
    chosen = list(rows)
    begun = [(row, seed) for seed in asked.seeds for row in chosen if asked.anew or not record.find(row, seed)]
    for row, seed in begun:
        make(row, seed)


def apart(record: Record, rows: Iterable[str]) -> None:
    """Print the void points by themselves: when each was made, and what has changed since. They hold nothing."""
    for row in rows:
        for seed in SEEDS:
            if point := record.void(row, seed):
                print_row(
                    name=f"void: {row}, seed {seed}",
                    ours=point["ours"],
                    peer=point["peer"],
                    unit="as it was",
                    ratio=point["ours"] / point["peer"],
                    made_at=point["code"],
                    changed=changes(point),
                )


def summarise(
    record: Record, row: str, unit: str, bar: float | None, peer: str = "", facts: Iterable[str] = ()
) -> None:
    """Print a row over all seeds: means of `ours` and `peer`; the mean, the least and the most of their ratio.

    A point that was measured several times holds `least` and `most` itself. `peer`: its name and version; `facts`:
    further figures of the points, of which the means are printed.
    """
    points = {seed: found for seed in SEEDS if (found := record.find(row, seed))}
    ratios = [each["ours"] / each["peer"] for each in points.values()]
    ends = [each[end] for each in points.values() for end in ("least", "most") if end in each] or ratios
    measured = [seed for seed in points if (row, seed) in record.measured]
    print_row(
        name=row,
        ours=round(statistics.fmean(each["ours"] for each in points.values()), 4) if points else None,
        peer=_of_peer([each["peer"] for each in points.values()], peer),
        unit=unit,
        ratio=statistics.fmean(ratios) if points else None,
        spread=[round(min(ends), 4), round(max(ends), 4)] if points else None,
        runs=len(points),
        bar=bar,
        seeds_measured=measured,
        seeds_recorded=[seed for seed in points if seed not in measured],
        **{fact: round(statistics.fmean(each[fact] for each in points.values()), 4) for fact in facts if points},
    )


def _of_peer(figures: Sequence[float], name: str) -> float | str:
    if not figures:
        return "nothing recorded"
    mean = round(statistics.fmean(figures), 4)
    return f"{mean}, {name}" if name else mean


def _read(file: Path) -> dict[tuple[str, int], dict[str, Any]]:
    if not file.exists():
        return {}
    points = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {(point["row"], point["seed"]): point for point in points}


def _write(file: Path, points: Mapping[tuple[str, int], Mapping[str, Any]]) -> None:
    """Sorted, and whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(".partial")
    aside.write_text("".join(f"{json.dumps(points[key])}\n" for key in sorted(points)), encoding="utf-8")
    aside.replace(file)


def verb(name: str, recipe: str, overrides: Sequence[str], log: Path) -> dict[str, float]:
    """All metrics of `python -m jobs.<name>`, out of its result.json; all that it says goes to the end of `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
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
    told = json.loads(done.stdout.splitlines()[-1].removeprefix("RESULT "))
    return json.loads(Path(told["output"], RESULT).read_text(encoding="utf-8"))["metrics"]
