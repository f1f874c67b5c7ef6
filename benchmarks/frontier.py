"""The frontier: how fast and how small a model gets, and what it keeps of its teacher. Latencies on one thread.

    SLIMCART_DATA=<folder> python -m benchmarks.frontier [--record [--anew]] [--seeds N ...] [--only PATTERN]
        [--state FOLDER] [--here] [--also FIELD=VALUE ...]

A point is a student and the compression after it, with one seed: what its file keeps on validation rows, by which
points are chosen, and on test rows, which are reported; its bytes; what the baselines reach; of a cascade the share
that its first model answers. Points are recorded in benchmarks/results/frontier.jsonl and replayed; --record makes,
point by point, those of the chosen seeds that are not recorded or are void, as a stage that made them has changed since
(hours: --only chooses by a regular expression). --state keeps teachers, students and bundles. Latencies are measured in
every run, on the bundles of the first seed that lie in --state, in turns with the eager fp32 teacher, tokenizer
included; --record writes them to benchmarks/results/frontier_times.jsonl.
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
from benchmarks._recorded import SEEDS, Record, apart, on_cluster, options, read_options, through
from benchmarks._runs import Runs, Study
from benchmarks._students import EDGE, NO_POOL, ONE_CORE, POOL
from configs.schema.tasks import BASELINES
from jobs.measure.answers import FIRST_SHARE
from jobs.measure.comparison import TEACHER
from jobs.measure.contenders import Contender
from jobs.measure.measurement import MIX, Measurement, key, measure
from serving.bundle import bundle_bytes, read_bundle
from tuning.figures import flat

STUDIES = {
    "intent_banking77": Study("configs/intent.yaml", "accuracy", (ONE_CORE, NO_POOL)),
    "category_pricerunner": Study("configs/category.yaml", "accuracy", (ONE_CORE,)),
    "review_rating_en": Study(
        "configs/review.yaml",
        "accuracy",
        (
            *(ONE_CORE, "distillation.epochs=2", "data.max_length=128"),
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
METRICS = ("accuracy", "macro_f1")
SHAPES = (1, 32), (16, 32)
RUNS = 3
UNIT = "times as fast as the teacher"
AS_THEY_COME = "rows as they come, mean"
MEASURES = {  # a figure of a point: how often the teacher's
    "batch 1, 32 tokens": key(SHAPES[0], "p50_ms"),
    "batch 16, 32 tokens": key(SHAPES[1], "p50_ms"),
    AS_THEY_COME: f"{MIX}_mean_ms",
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
    Bar(AS_THEY_COME, 0.99, 20, cascade=True),
)


def main() -> int:
    """All sets, or the points that are chosen."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.frontier")
    options(parser)
    asked = read_options(parser)
    folder = os.environ.get("SLIMCART_DATA")
    if not folder:
        for name in STUDIES:
            for bar in BARS:
                missing(_title(name, bar), UNIT, "SLIMCART_DATA is not set", bar.times)
        return exit_code()
    with on_cluster(asked.state, asked.record, asked.here) as state:
        points, times = Record("frontier", state), Record("frontier_times", state)
        for name, study in STUDIES.items():
            runs = functools.partial(Runs, state, Path(folder), name, study.with_overrides(asked.also))
            study_set(name, runs, asked, points, times)
        points.land()
        times.land()
    return exit_code()


def study_set(
    name: str, runs: functools.partial[Runs], asked: argparse.Namespace, record: Record, recorded_times: Record
) -> None:
    """All points of a set, then its bars."""
    points = (*POINTS, *WITH_POOL) if name in FEW_ROWS else POINTS
    rows = {f"{name}: {student}, {steps}": (student, steps) for student, steps in points} | {f"{name}: {CASCADE}": None}
    chosen = [row for row in rows if asked.only.search(row)]
    if not chosen:
        return
    through(chosen, asked, record, lambda row, seed: make(runs(seed=seed), record, row, rows[row], seed))
    here = runs(seed=SEEDS[0])
    bundles = {row: place(here, row.removeprefix(f"{name}: ")) for row in chosen if record.find(row, SEEDS[0])}
    measured = faster(here, {row: bundle for row, bundle in bundles.items() if bundle.exists()})
    if asked.record:
        record_times(recorded_times, measured, record)
    kept = {row: share for row in chosen if (share := summarise(name, here, record, row, measured))}
    for bar in BARS:
        _best(name, bar, kept, measured)
    apart(record, chosen)


class Kept(NamedTuple):
    """Shares of the teacher's metric, means of the seeds."""

    validation: float
    test: float


def make(runs: Runs, record: Record, row: str, point: tuple[str, str] | None, seed: int) -> None:
    """Add a point to the record; `point` is its student and steps, None of the cascade."""
    known, metric = runs.known, runs.study.metric
    command = cascade(runs) if point is None else compress(runs, *point)
    bundle = place(runs, row.partition(": ")[2])
    figures = runs.measured("bundle", "bundle", bundle)
    sides = {
        "": figures,
        "teacher_": known[TEACHER],
        **{f"{name}_": known[BASELINES[name].contender] for name in ("tfidf", "static")},
    }
    found = {
        "ours": figures[metric],
        "peer": known[TEACHER][metric],
        **{
            f"{side}{split}{each}": metrics[f"{split}{each}"]
            for side, metrics in sides.items()
            for split in ("", "validation_")
            for each in METRICS
        },
        **{name: figures[name] for name in (FIRST_SHARE, f"validation_{FIRST_SHARE}") if name in figures},
        "bytes": bundle_bytes(read_bundle(bundle)),
        "teacher_bytes": bundle_bytes(read_bundle(runs.teacher)),
    }
    students = [student for student, _ in (PARTS if point is None else (point,))]
    stages = dict.fromkeys(stage for student in students for stage in runs.student_stages(STUDENTS[student]))
    last = ("compress", *(() if point else ("cascade",)), "measure", "baselines")
    record.add(row, seed, (*stages, *last), command, found)


def summarise(
    name: str, runs: Runs, record: Record, row: str, times: dict[str, dict[str, Sequence[float]]]
) -> Kept | None:
    """Print a row of all seeds; None where no point is recorded."""
    points = [found for seed in SEEDS if (found := record.find(row, seed))]
    if not points:
        missing(row, f"{runs.study.metric} on test rows", "nothing recorded of the code as it is", None)
        return None
    metric = runs.study.metric
    shares = [each["ours"] / each["peer"] for each in points]
    validation = [each[f"validation_{metric}"] / each[f"teacher_validation_{metric}"] for each in points]
    times.setdefault(row, {})["bytes"] = [each["teacher_bytes"] / each["bytes"] for each in points]
    print_row(
        name=row,
        ours=round(statistics.fmean(each["ours"] for each in points), 4),
        peer=round(statistics.fmean(each["peer"] for each in points), 4),
        unit=f"{metric} on test rows",
        ratio=statistics.fmean(shares),
        spread=[round(min(shares), 4), round(max(shares), 4)],
        runs=len(points),
        kept_on_validation=round(statistics.fmean(validation), 4),
        kept_macro_f1=round(statistics.fmean(each["macro_f1"] / each["teacher_macro_f1"] for each in points), 4),
        baselines={
            baseline: round(statistics.fmean(each[f"{baseline}_{metric}"] / each["peer"] for each in points), 4)
            for baseline in ("tfidf", "static")
        },
        **(
            {FIRST_SHARE: round(statistics.fmean(each[FIRST_SHARE] for each in points), 4)}
            if FIRST_SHARE in points[0]
            else {}
        ),
        seeds_measured=[seed for seed in SEEDS if (row, seed) in record.measured],
        better={measured: round(statistics.median(found), 1) for measured, found in times[row].items()},
    )
    return Kept(statistics.fmean(validation), statistics.fmean(shares))


def compress(runs: Runs, student: str, steps: str) -> str:
    """Make a point's bundle, out of a student that other points share; returns the command."""
    learned = runs.folder / "students" / f"{student} {runs.made_by(*runs.student_stages(STUDENTS[student]))}"
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
    for point in PARTS:
        compress(runs, *point)  # what lies there may be of an earlier code
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
    question = Measurement(
        data=runs.recipe.data,
        split="test",
        contenders=contenders,
        score=False,
        shapes=list(SHAPES),
        mix=True,
        tokenizer=str(runs.teacher / "tokenizer.json"),
    )
    answers = [{name: flat(each.figures) for name, each in measure(question).items()} for _ in range(RUNS)]
    for row in bundles:
        for measured, name in MEASURES.items():
            if name != "bytes":
                found[row][measured] = [each[TEACHER][name] / each[row][name] for each in answers]
    return found


def record_times(times: Record, measured: Mapping[str, Mapping[str, Sequence[float]]], points: Record) -> None:
    """Write how many times as fast as the teacher each bundle was: of each measure the median, the least, the most."""
    for row, ratios_of in measured.items():
        found: dict[str, float] = {}
        for name, ratios in ratios_of.items():
            found |= {name: statistics.median(ratios), f"{name}, least": min(ratios), f"{name}, most": max(ratios)}
        point = points.find(row, SEEDS[0])
        if found and point:
            times.add(row, SEEDS[0], list(point["stages"]), "python -m benchmarks.frontier --record --seeds 0", found)


def _best(name: str, bar: Bar, kept: Mapping[str, Kept], times: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Print the best of the points that keep enough on validation rows; it must keep as much on test rows."""
    good = {
        row: times[row][bar.measure]
        for row, share in kept.items()
        if share.validation >= bar.kept and bar.measure in times[row] and (row.endswith(CASCADE) or not bar.cascade)
    }
    if not good:
        reason = f"no point keeps {bar.kept:.0%} on validation rows"
        if any(share.validation >= bar.kept for share in kept.values()):
            reason += f" and was measured: those of seed {SEEDS[0]} that lie in --state are"
        missing(_title(name, bar), UNIT, reason, bar.times)
        return
    row = max(good, key=lambda each: statistics.median(good[each]))
    point = row.removeprefix(f"{name}: ")
    if kept[row].test < bar.kept:
        reason = f"{point}, chosen by validation rows, keeps {kept[row].test:.2%} on test rows"
        missing(_title(name, bar), UNIT, reason, bar.times)
        return
    print_row(
        name=f"{_title(name, bar)}: {point}",
        ours=f"keeps {kept[row].test:.2%}",
        peer=f"eager fp32 teacher, torch {torch.__version__}",
        unit="times smaller" if bar.measure == "bytes" else UNIT,
        ratio=statistics.median(good[row]),
        spread=[round(min(good[row]), 2), round(max(good[row]), 2)],
        runs=len(good[row]),
        bar=bar.times,
    )


def _title(name: str, bar: Bar) -> str:
    how = "the cascade" if bar.cascade else "the best point"
    return f"{name}: {how} at {bar.kept:.0%} of the teacher, {bar.measure}"


if __name__ == "__main__":
    sys.exit(main())
