"""How good students get: retention on test rows, by objective, size, pool and seed. Each point is a job of minutes."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks._recorded import Record, apart, summarise, through
from benchmarks._runs import Runs, Study
from configs.schema.tasks import BASELINES
from jobs.measure.comparison import TEACHER

BARS = {3: 0.995, 2: 0.993, 1: 0.985}
ALONE = ("kl", "reverse_kl", "jensen_shannon", "cross_entropy", "hidden", "relations", "cosine")
LIKELIHOOD = "validation_log_likelihood"  # what a decoder's epochs are compared by
ONE_CORE = "engine.cpus_per_worker=1"  # two such runs side by side get further than one after the other on both
POOL, NO_POOL = "distillation.pool.rows=8000", "distillation.pool.rows=0"
TOGETHER = {  # overrides of configs/intent.yaml, whose own weights are kl 0.9 and cross_entropy 0.1
    "kl + cross_entropy": [],
    "kl + cross_entropy, pool": [POOL],
    "kl + cross_entropy + cosine": ["distillation.weights.cosine=1"],
    "kl + cross_entropy + hidden": ["distillation.weights.hidden=1"],
    "relations, then kl + cross_entropy": ["distillation.stages=[{epochs: 2, weights: {relations: 1}}]"],
}
EDGE = [
    "student.kind=conv",
    "student.layers=2",
    "distillation.learning_rate=2e-3",
    "distillation.epochs=12",
]


class Student(NamedTuple):
    """A row: overrides of the study's recipe, and how much of the best of `peers` the student is to keep."""

    overrides: list[str]
    bar: float | None
    peers: tuple[str, ...] = (TEACHER,)


def _classifiers() -> dict[str, Student]:
    """Neighbours share what their teacher has to be asked for, which is stored."""
    names = {layers: f"{layers} layer{'s' * (layers > 1)}" for layers in BARS}
    rows = {
        f"{name}, {how}": Student([f"student.layers={layers}", *overrides], BARS[layers])
        for how, overrides in TOGETHER.items()
        for layers, name in names.items()
    }
    for objective in ALONE:
        weights = {"kl": 0, "cross_entropy": 0} | {objective: 1}
        given = ", ".join(f"{key}: {value}" for key, value in weights.items())
        for layers, name in names.items():
            overrides = [f"student.layers={layers}", f"distillation.weights={{{given}}}"]
            rows[f"{name}, {objective} alone"] = Student(overrides, None)
    for name, further in {"edge student": [], "edge student, pool": [POOL]}.items():
        rows[f"{name} / the better baseline"] = Student(
            [*EDGE, *further], 1.0, (BASELINES["tfidf"].contender, BASELINES["static"].contender)
        )
    return rows


STUDIES = {
    "intent_banking77": (Study("configs/intent.yaml", "accuracy", (ONE_CORE, NO_POOL)), _classifiers()),
    "description_rnnlg": (
        Study(
            "configs/description.yaml",
            "bleu",
            ("teacher.new.layers=6", ONE_CORE),
            rows={"act": ("inform", "recommend")},
        ),
        {"a decoder of 38 % of the parameters": Student(["student.layers=2"], None)},
    ),
}


def quality(scratch: Path, data: str | None, asked: argparse.Namespace) -> None:
    """Print all rows that are `asked` for, see `benchmarks._recorded`."""
    record = Record("distillation", scratch)
    for name, (study, students) in STUDIES.items():
        rows = {f"{name}: {row}": student for row, student in students.items()}
        chosen = {row: student for row, student in rows.items() if asked.only.search(row)}
        make = functools.partial(_make, scratch, Path(data), name, asked.also, record) if data else None
        through(chosen, asked, record, make)
        for row, student in chosen.items():
            summarise(record, row, f"{study.metric} on test rows", student.bar)
        apart(record, chosen)
    record.land()


def _make(scratch: Path, data: Path, name: str, also: Sequence[str], record: Record, row: str, seed: int) -> None:
    """Add one student to the record; its teacher is trained with the first one of that seed."""
    study, students = STUDIES[name]
    student = students[row.removeprefix(f"{name}: ")]
    runs = Runs(scratch, data, name, study.with_overrides(also), seed)
    scores = {name: figures[study.metric] for name, figures in runs.known.items()}
    trained = runs.verb("distill", *student.overrides)
    found = {
        "ours": runs.measured("student", "reference", runs.folder / "student")[study.metric],
        "peer": max(scores[peer] for peer in student.peers),
        **{metric: trained[metric] for metric in (f"validation_{study.metric}", LIKELIHOOD) if metric in trained},
    }
    stages = (*runs.student_stages(student.overrides), "measure")
    record.add(row, seed, stages, runs.command("distill", student.overrides), found | scores)
