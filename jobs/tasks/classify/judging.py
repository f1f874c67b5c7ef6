"""Judges a classifier under compression: by its metric on validation rows, and by the labels of its file."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jobs.compression.checks.agreement import ROWS, Compare, Parity, compared_rows
from jobs.compression.checks.metric import ANSWERS, JUDGED, StepMetric
from jobs.compression.logits import logits, open_file
from jobs.compression.step_context import StepContext
from jobs.data.feeds import Rows
from jobs.data.prepared import Examples
from jobs.tasks.classify import metrics

if TYPE_CHECKING:
    from torch import nn

FLOAT, INT8 = 0.999, 0.98  # default least share of rows with the same label


Score = Callable[[np.ndarray, np.ndarray], dict[str, float]]  # (class numbers predicted, expected) -> metrics by name


def metric(model: nn.Module | Path, rows: Rows, name: str = metrics.METRIC, score: Score = metrics.metrics) -> float:
    """A metric of a classifier, or of an exported file of one."""
    return score(logits(model, rows).argmax(1), rows.labels)[name]


def agreement(model: nn.Module, context: StepContext) -> Compare | None:
    """Compares the labels of files with those of `model`; see `jobs.compression.checks.agreement.comparison`."""
    examples = compared_rows(context)
    if examples is None:
        return None
    rows = context.fed(examples, ROWS)
    expected_NC = logits(model, rows)

    def compare(file: Path, precision: str) -> Parity:
        actual_NC = logits(open_file(file, precision), rows)
        same = float((actual_NC.argmax(1) == expected_NC.argmax(1)).mean())
        return Parity(len(rows), same, float(np.abs(actual_NC - expected_NC).max()))

    return compare


def of_labels(
    rows: Rows, few: Callable[[], Rows], name: str = metrics.METRIC, score: Score = metrics.metrics
) -> StepMetric:
    """A classifier's metric; `few` gives the rows of the answers, and is called once, when answers are asked for."""
    once = functools.cache(few)
    return StepMetric(
        name,
        len(rows),
        functools.partial(metric, rows=rows, name=name, score=score),
        lambda model: logits(model, once()),
    )


def step_metric(context: StepContext, examples: Examples) -> StepMetric:
    """The budget's metric on the validation rows."""
    few = functools.partial(context.fed, examples, ANSWERS)
    score = functools.partial(metrics.of_classes, context.task, context.reference.labels)
    return of_labels(context.fed(examples, JUDGED), few, context.task.metric, score)


def least_agreement(context: StepContext, is_float: bool, competing: bool) -> float | None:
    """None for an int8 file alone, which its metric judges; its labels count where files compete or compute in bf16."""
    if not is_float and not competing:
        return None
    return FLOAT if is_float else INT8
