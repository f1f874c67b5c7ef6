"""The frontier: how fast and how small a model gets, and what it keeps of its teacher. Latencies on one thread.

    SLIMCART_DATA=<folder> python -m benchmarks.frontier [--record] [--seeds N ...] [--only PATTERN] [--state FOLDER]
        [--here] [--also FIELD=VALUE ...]

A point is a student and the compression after it. What it keeps, on test rows, and its bytes are recorded for three
seeds in benchmarks/results/frontier.jsonl: a run makes the points of the first seed anew (hours: --only chooses by a
regular expression), --record makes those not recorded yet, of the chosen seeds.
--state keeps teachers and students. Latencies are measured in every run, on the bundles of the first seed that lie in
--state, in turns with the eager fp32 teacher, tokenizer included; --record writes them to
benchmarks/results/frontier_times.jsonl.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks._compare import exit_code, missing, print_row
from benchmarks._recorded import SEEDS, Record, on_cluster, options, through
from benchmarks._runs import Runs, Study
from benchmarks._students import EDGE, NO_POOL, ONE_CORE, POOL
from jobs.measure.comparison import TEACHER
from jobs.measure.contenders import Contender
from jobs.measure.fresh import MIX, Question, ask, key
from serving.bundle import bundle_bytes, read_bundle

STUDIES = {
    "intent_banking77": Study("configs/intent.yaml", "accuracy", (ONE_CORE, NO_POOL)),
    "category_pricerunner": Study("configs/category.yaml", "accuracy", (ONE_CORE, "teacher.epochs=1")),
    "review_rating_en": Study(
        "configs/review.yaml",
        "accuracy",
        (
            *(ONE_CORE, "teacher.epochs=1", "distillation.epochs=2", "data.max_length=128"),
            *("teacher.class_weights=none", "distillation.class_weights=none"),  # the metric here is accuracy
            "engine.tokens_per_batch=2048",
        ),
    ),
}
STUDENTS = {
    "3 layers": ["student.layers=3"],
    "2 layers": ["student.layers=2"],
    "2 narrower layers": ["student.layers=2", "student.feed_forward=1024"],
    "1 layer": ["student.layers=1"],
    "edge": EDGE,
    "2 layers, pool": ["student.layers=2", POOL],
    "edge, pool": [*EDGE, POOL],
}
INT8 = "{step: export}, {step: quantize}"
STEPS = {
    "int8": f"[{INT8}]",
    "vocabulary, int8": f"[{{step: vocabulary}}, {INT8}]",
    "folded, vocabulary, int8": f"[{{step: fold}}, {{step: vocabulary}}, {INT8}]",
    "vocabulary, 4 bits": "[{step: vocabulary}, {step: cluster, bits: 4}, {step: export}, {step: code}]",
}
POINTS = (
    ("3 layers", "int8"),
    ("2 layers", "int8"),
    ("2 layers", "vocabulary, int8"),
    ("2 layers", "vocabulary, 4 bits"),
    ("2 narrower layers", "int8"),
    ("1 layer", "int8"),
    ("1 layer", "vocabulary, int8"),
    ("edge", "folded, vocabulary, int8"),
)
WITH_POOL = (("2 layers, pool", "vocabulary, int8"), ("edge, pool", "folded, vocabulary, int8"))
FEW_ROWS = ("intent_banking77",)  # the other sets have more rows than a pool would add
CASCADE = "cascade: edge, then 2 layers"
PARTS = ("edge", "folded, vocabulary, int8"), ("2 layers", "int8")
MAX_LOSS = "cascade.max_loss=0.003"  # of the second's validation accuracy: what that leaves of the bar
SHAPES = (1, 32), (16, 32)
RUNS = 3
UNIT = "times as fast as the teacher"
MEASURES = {  # a figure of a point: how often the teacher's
    "batch 1, 32 tokens": key(SHAPES[0], "p50_ms"),
    "batch 16, 32 tokens": key(SHAPES[1], "p50_ms"),
    "length mix, batch 1": f"{MIX}_p50_ms",
    "bytes": "bytes",
}


class Bar(NamedTuple):
    """The best point that keeps `kept` of the teacher is to be `times` better in `measure`."""

    measure: str
    kept: float
    times: float
    cascade: bool = False


BARS = (
    Bar("batch 1, 32 tokens", 0.99, 15),
    Bar("batch 1, 32 tokens", 0.97, 35),
    Bar("batch 16, 32 tokens", 0.99, 7),
    Bar("bytes", 0.99, 15),
    Bar("length mix, batch 1", 0.99, 20, cascade=True),
)


def main() -> int:
    """Measure all sets, or the points that are chosen."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.frontier")
    options(parser)
    asked = parser.parse_args()
    folder = os.environ.get("SLIMCART_DATA")
    if not folder:
        for name in STUDIES:
            for bar in BARS:
                missing(_title(name, bar), UNIT, "SLIMCART_DATA is not set", bar.times)
        return exit_code()
    with on_cluster(asked.state, True, asked.here) as state:
        for name, study in STUDIES.items():
            measure(name, functools.partial(Runs, state, Path(folder), name, study.with_overrides(asked.also)), asked)
    return exit_code()


def measure(name: str, runs: functools.partial[Runs], asked: argparse.Namespace) -> None:
    """All points of a set, then its bars."""
    record = Record("frontier")
    points = (*POINTS, *WITH_POOL) if name in FEW_ROWS else POINTS
    rows = {f"{name}: {student}, {steps}": (student, steps) for student, steps in points} | {f"{name}: {CASCADE}": None}
    chosen = [row for row in rows if asked.only.search(row)]
    if not chosen:
        return

    def make(row: str, seed: int) -> tuple[str, dict[str, float]]:
        here = runs(seed=seed)
        kept = here.known[TEACHER]
        command = cascade(here) if (point := rows[row]) is None else compress(here, *point)
        bundle = place(here, row.removeprefix(f"{name}: "))
        found = {
            "ours": here.score("bundle", "bundle", bundle),
            "peer": kept,
            "bytes": bundle_bytes(read_bundle(bundle)),
            "teacher_bytes": bundle_bytes(read_bundle(here.teacher)),
        }
        return command, found

    through(chosen, asked.seeds, record, make, asked.record)
    here = runs(seed=SEEDS[0])
    bundles = {row: place(here, row.removeprefix(f"{name}: ")) for row in chosen}
    times = faster(here, {row: bundle for row, bundle in bundles.items() if bundle.exists()})
    if asked.record:
        record_times(times)
    kept: dict[str, float] = {}
    for row in chosen:
        points = [found for seed in SEEDS if (found := record.find(row, seed))]
        if not points:
            continue
        shares = [each["ours"] / each["peer"] for each in points]
        smaller = [each["teacher_bytes"] / each["bytes"] for each in points]
        kept[row] = statistics.fmean(shares)
        times.setdefault(row, {})["bytes"] = smaller
        print_row(
            name=row,
            ours=round(statistics.fmean(each["ours"] for each in points), 4),
            peer=round(statistics.fmean(each["peer"] for each in points), 4),
            unit=f"{here.study.metric} on test rows",
            ratio=kept[row],
            spread=[round(min(shares), 4), round(max(shares), 4)],
            runs=len(points),
            seeds_measured=[seed for seed in SEEDS if (row, seed) in record.measured],
            better={measured: round(statistics.median(found), 1) for measured, found in times[row].items()},
        )
    for bar in BARS:
        _best(name, bar, kept, times)


def compress(runs: Runs, student: str, steps: str) -> str:
    """Make a point's bundle, out of a student that other points share; returns the command."""
    learned = runs.folder / "students" / student
    if not learned.exists():
        runs.verb("distill", *STUDENTS[student])
        learned.parent.mkdir(exist_ok=True)
        (runs.folder / "student").rename(learned)
    told = [*STUDENTS[student], f"compression={STEPS[steps]}", "budget.min_retention=0"]  # the table shows what is lost
    runs.verb("compress", *told, f"bundle={learned}")
    _move(runs.folder / "bundle", place(runs, f"{student}, {steps}"))
    return runs.command("compress", told)


def cascade(runs: Runs) -> str:
    """Join two points of this seed; returns the command."""
    first, second = (place(runs, f"{student}, {steps}") for student, steps in PARTS)
    for folder, point in ((first, PARTS[0]), (second, PARTS[1])):
        if not folder.exists():
            compress(runs, *point)
    runs.verb("cascade", f"cascade.first={first}", f"cascade.second={second}", MAX_LOSS)
    _move(runs.folder / "cascade", place(runs, CASCADE))
    return runs.command("cascade", ["cascade.first=<edge bundle>", "cascade.second=<bundle of 2 layers>", MAX_LOSS])


def place(runs: Runs, point: str) -> Path:
    """Where a point's bundle lies."""
    return runs.folder / "points" / re.sub(r"\W+", "-", point)


def _move(made: Path, to: Path) -> None:
    to.parent.mkdir(exist_ok=True)
    shutil.rmtree(to, ignore_errors=True)
    made.rename(to)


def faster(runs: Runs, bundles: Mapping[str, Path]) -> dict[str, dict[str, Sequence[float]]]:
    """{row: {measure: `RUNS` ratios of the teacher's median latency to the bundle's}}, all of them in turns."""
    found: dict[str, dict[str, Sequence[float]]] = {row: {} for row in bundles}
    if not bundles:
        return found
    contenders = [Contender(name=TEACHER, kind="reference", folder=str(runs.teacher))]
    contenders += [Contender(name=row, kind="bundle", folder=str(bundle)) for row, bundle in bundles.items()]
    question = Question(
        data=runs.recipe.data,
        split="test",
        contenders=contenders,
        score=False,
        shapes=list(SHAPES),
        mix=True,
        tokenizer=str(runs.teacher / "tokenizer.json"),
    )
    answers = [ask(question) for _ in range(RUNS)]
    for row in bundles:
        for measured, name in MEASURES.items():
            if name != "bytes":
                found[row][measured] = [each[TEACHER].metrics[name] / each[row].metrics[name] for each in answers]
    return found


def record_times(times: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Write how many times as fast as the teacher each bundle was: of each measure the median, the least, the most."""
    record = Record("frontier_times")
    for row, measured in times.items():
        found = {}
        for name, ratios in measured.items():
            found |= {name: statistics.median(ratios), f"{name}, least": min(ratios), f"{name}, most": max(ratios)}
        if found:
            record.add(row, SEEDS[0], "python -m benchmarks.frontier --record --state <folder> --seeds 0", found)


def _best(name: str, bar: Bar, kept: Mapping[str, float], times: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Print the best of the points that keep enough."""
    good = {
        row: times[row][bar.measure]
        for row, share in kept.items()
        if share >= bar.kept and bar.measure in times[row] and (row.endswith(CASCADE) or not bar.cascade)
    }
    if not good:
        reason = f"no point keeps {bar.kept:.0%}"
        if any(share >= bar.kept for share in kept.values()):
            reason += f" and was measured: those of seed {SEEDS[0]} that lie in --state are"
        missing(_title(name, bar), UNIT, reason, bar.times)
        return
    row = max(good, key=lambda each: statistics.median(good[each]))
    ratio = statistics.median(good[row])
    print_row(
        name=f"{_title(name, bar)}: {row.removeprefix(f'{name}: ')}",
        ours=f"keeps {kept[row]:.2%}",
        peer=f"eager fp32 teacher, torch {torch.__version__}",
        unit="times smaller" if bar.measure == "bytes" else UNIT,
        ratio=ratio,
        spread=[round(min(good[row]), 2), round(max(good[row]), 2)],
        runs=len(good[row]),
        bar=bar.times,
    )


def _title(name: str, bar: Bar) -> str:
    how = "the cascade" if bar.cascade else "the best point"
    return f"{name}: {how} at {bar.kept:.0%} of the teacher, {bar.measure}"


if __name__ == "__main__":
    sys.exit(main())
