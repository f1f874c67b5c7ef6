"""Section `evaluation` of a recipe."""

from __future__ import annotations

from pydantic import Field

from configs.loader import Spec


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
