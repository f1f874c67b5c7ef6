"""How good students get: retention on test rows, by objective, size, pool and seed. Each point is a job of minutes."""

from __future__ import annotations

import functools
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks._recorded import Record, summarise, through, verb
from configs.loader import load
from jobs.measure.comparison import STATIC, TEACHER, TFIDF
from jobs.measure.contenders import Contender
from jobs.measure.fresh import Question, ask
from jobs.recipe import Recipe

SEEDS = (0, 1, 2)
BARS = {3: 0.995, 2: 0.993, 1: 0.985}
ALONE = ("kl", "reverse_kl", "jensen_shannon", "cross_entropy", "hidden", "relations", "cosine")
POOL = "distillation.pool.rows=8000"
TOGETHER = {  # overrides of configs/intent.yaml, whose own weights are kl 0.9 and cross_entropy 0.1
    "kl + cross_entropy": [],
    "kl + cross_entropy, pool": [POOL],
    "kl + cross_entropy + cosine": ["distillation.weights.cosine=1"],
    "kl + cross_entropy + hidden": ["distillation.weights.hidden=1"],
    "relations, then kl + cross_entropy": ["distillation.stages=[{epochs: 2, weights: {relations: 1}}]"],
}
EDGE = ["student.kind=conv", "student.layers=2", "distillation.learning_rate=2e-3", "distillation.epochs=12"]


class Student(NamedTuple):
    """A row: overrides of the study's recipe, and how much of the best of `peers` the student is to keep."""

    overrides: list[str]
    bar: float | None
    peers: tuple[str, ...] = (TEACHER,)


class Study(NamedTuple):
    """A data set, its recipe, and the students that learn from one teacher a seed."""

    recipe: str
    metric: str
    teacher: list[str]  # overrides
    students: dict[str, Student]


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
        rows[f"{name} / the better baseline"] = Student([*EDGE, *further], 1.0, (TFIDF, STATIC))
    return rows


STUDIES = {
    "intent_banking77": Study("configs/intent.yaml", "accuracy", [], _classifiers()),
    "description_rnnlg": Study(
        "configs/description.yaml",
        "bleu",
        ["teacher.new.layers=6"],
        {"a decoder of 38 % of the parameters": Student(["student.layers=2"], None)},
    ),
}


def quality(scratch: Path, data: str | None, seeds: Sequence[int], fill: bool, only: str) -> None:
    """Print all rows whose names hold `only`; see `benchmarks._recorded.through`."""
    record = Record("distillation")
    for name, study in STUDIES.items():
        rows = {f"{name}: {row}": student for row, student in study.students.items()}
        chosen = {row: student for row, student in rows.items() if only in row}
        measure = functools.partial(_measure, scratch, Path(data), name) if data else None
        through(chosen, seeds, record, measure, fill)
        for row, student in chosen.items():
            summarise(record, row, f"{study.metric} on test rows", student.bar, SEEDS)


def _measure(scratch: Path, data: Path, name: str, row: str, seed: int) -> tuple[str, dict[str, float]]:
    """(command, figures) of one student; its teacher is trained with the first one of that seed."""
    study = STUDIES[name]
    student = study.students[row.removeprefix(f"{name}: ")]
    place, log = scratch / f"{name}-{seed}", scratch / f"{name}-{seed}.log"
    files = [f"data.{split}={data / name / split}.jsonl.gz" for split in ("train", "validation", "test")]
    common = [*files, *study.teacher, f"seed={seed}", f"output={place}"]
    told = load(Recipe, study.recipe, common)
    score = functools.partial(_score, told, study.metric)
    known = place / "known.json"
    if not known.exists():
        verb("finetune", study.recipe, common, log)
        scores = {TEACHER: score(Contender(name=TEACHER, kind="reference", folder=str(place / "teacher")))}
        if told.task == "classify":
            scores[TFIDF] = score(Contender(name=TFIDF, kind="tfidf"))
            scores[STATIC] = score(Contender(name=STATIC, kind="static", folder=str(place / "teacher")))
        known.write_text(json.dumps(scores), encoding="utf-8")
    scores = json.loads(known.read_text(encoding="utf-8"))
    trained = verb("distill", study.recipe, [*common, *student.overrides], log)
    found = {
        "ours": score(Contender(name="student", kind="reference", folder=str(place / "student"))),
        "peer": max(scores[peer] for peer in student.peers),
        f"validation_{study.metric}": trained[f"validation_{study.metric}"],
    }
    given = [each.replace(str(data), "$SLIMCART_DATA") for each in [*files, *study.teacher, f"seed={seed}"]]
    command = shlex.join(["python", "-m", "jobs.distill", "--config", study.recipe, *given, *student.overrides])
    return command, found | scores


def _score(told: Recipe, metric: str, contender: Contender) -> float:
    return ask(Question(task=told.task, data=told.data, split="test", contenders=[contender]))[contender.name].metrics[
        metric
    ]
