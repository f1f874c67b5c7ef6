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
        description="measured beside the bundle; classify: tfidf, static; generate: nearest, template; [] for none; "
        "default: all of the task beside the output's own bundle",
    )
    examples: int = Field(
        default=10,
        ge=0,
        description="generate: test rows whose prompt, reference and answers by teacher and winner stand in the "
        "report, worst first; 0 = no text of a row stands there",
    )
    watts_per_core: float = Field(
        default=3.5,
        gt=0,
        description="watts of a busy core, to estimate energy where this CPU's counters cannot be read",
    )
