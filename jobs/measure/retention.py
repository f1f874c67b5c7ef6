"""What is kept of the teacher: shares of its metric on the very same rows, and how far they would move with others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from configs.schema.recipe import Recipe
from configs.schema.tasks import named
from jobs.data.prepared import Prepared
from jobs.data.source import Row, Sample, check_unchanged
from jobs.measure.bootstrap import resampled
from tuning.pareto import ERROR_OF_RETENTION, METRIC, RETENTION


class Teacher(NamedTuple):
    """What a teacher came to on validation rows, and which those are."""

    metric: float
    resampled: Sequence[float]  # the same of resampled rows, as `jobs.measure.bootstrap` draws them
    sample: Sample


def taught(recipe: Recipe, prepared: Prepared, teacher_outputs: Path, rows: Sequence[Row]) -> Teacher:
    """The teacher's metric on the validation `rows`, from its stored outputs.

    Raises `JobError` where they are not those that were prepared.
    """
    check_unchanged(rows, prepared.sample("validation"), recipe.data, "validation")
    task = recipe.judged_by
    said = named(task.stored_answers)(prepared, teacher_outputs)
    metric = named(task.score)(said, rows)[task.metric]
    values = resampled(named(task.summed.statistics)(said, rows), named(task.summed.value))
    return Teacher(metric, values, prepared.sample("validation"))


def kept(metric: float, values: Sequence[float], teacher: Teacher) -> dict[str, float]:
    """METRIC, retention and its standard error, of a student's metric and the same over the resampled rows.

    Efron & Tibshirani 1993, algorithm 6.1, of pairs: a sample has the same rows for both, so that those which both
    answer alike move the share little.
    """
    import numpy as np

    shares = [ours / theirs for ours, theirs in zip(values, teacher.resampled, strict=True) if theirs]
    error = float(np.std(shares, ddof=1)) if len(shares) > 1 else 0.0
    return {METRIC: metric, RETENTION: metric / teacher.metric, ERROR_OF_RETENTION: error}
