"""Section `evaluation` of a recipe."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field

from configs.loader import Spec


class Baseline(NamedTuple):
    """What any model of a task must beat to be worth its training."""

    task: str
    contender: str  # its name in tables and metrics


BASELINES = {  # by the name in a recipe
    "tfidf": Baseline("classify", "tfidf_svm"),
    "static": Baseline("classify", "static_logreg"),
    "nearest": Baseline("generate", "nearest_row"),
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
