"""Section `evaluation` of a recipe."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field

from configs.loader import Spec


class Baseline(NamedTuple):
    """What any model of a task must beat to be worth its training."""

    task: str
    contender: str  # its name in tables and metrics
    make: str  # the function; of a classifier it gives what a bundle is written of
    what: str  # for readers
    of_teacher: bool = False  # whether it is made of the teacher's token embeddings, too


BASELINES = {  # by the name in a recipe
    "tfidf": Baseline(
        "classify",
        "tfidf_svm",
        "jobs.measure.baselines:make_tfidf",
        "TF-IDF of words, of word pairs and, unless it is worse, of strings of characters under a linear SVM",
    ),
    "static": Baseline(
        "classify",
        "static_logreg",
        "jobs.measure.baselines:make_static",
        "the mean of the teacher's token embeddings under a logistic regression",
        of_teacher=True,
    ),
    "nearest": Baseline(
        "generate",
        "nearest_row",
        "jobs.measure.baselines:fit_nearest",
        "the completion of the most similar training row",
    ),
}


def baselines_of(task: str) -> list[str]:
    """The names of a task's baselines."""
    return [name for name, each in BASELINES.items() if each.task == task]


class EvaluationSpec(Spec):
    """What the final evaluation measures beside teacher, student, winner and baselines."""

    steps: bool = Field(
        default=True,
        description="of <output>/bundle: apply its steps to its student again, and measure what each of them leaves",
    )
    baselines: list[str] | None = Field(
        default=None,
        description="measured beside the bundle; classify: tfidf, static, generate: nearest; [] for none; default: all "
        "that the task has, beside the output's own bundle",
    )
    watts_per_core: float = Field(
        default=3.5,
        gt=0,
        description="watts of a busy core, to estimate energy where this CPU's counters cannot be read",
    )
