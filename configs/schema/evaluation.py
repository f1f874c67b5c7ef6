"""Section `evaluation` of a recipe."""

from __future__ import annotations

from pydantic import Field

from configs.loader import Spec


class EvaluationSpec(Spec):
    """Options of the final evaluation, which measures teacher, student, winner and baselines."""

    steps: bool = Field(
        default=True,
        description="apply the steps of <output>/bundle to its student again, and measure the result of each",
    )
    baselines: list[str] | None = Field(
        default=None,
        description="measured beside the bundle; classify: tfidf, static; generate: nearest; [] for none; default: all "
        "of the task beside the output's own bundle",
    )
    watts_per_core: float = Field(
        default=3.5,
        gt=0,
        description="watts of a busy core, to estimate energy where this CPU's counters cannot be read",
    )
