"""The metric of a model under compression, or of its file, on prepared validation rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from configs.schema.tasks import named
from jobs.compression.step_context import StepContext

if TYPE_CHECKING:
    from torch import nn

JUDGED = 2000  # most validation rows that a step is judged on
ANSWERS = 256  # most answers that two files are compared by: to rows, or a decoder's next tokens


@dataclass(frozen=True)
class StepMetric:
    """A metric over `rows` rows, and the answers behind it over a few of them."""

    name: str
    rows: int
    metric: Callable[[nn.Module | Path], float]
    answers: Callable[[nn.Module | Path], np.ndarray]  # logits [N, C], of rows or of tokens


def step_metric(context: StepContext, limited: bool) -> StepMetric | None:
    """The metric that the task's record names for a step.

    It is None, or a `JobError` is raised, without prepared rows of this student; see `StepContext.validation`.
    """
    examples = context.validation(limited)
    return None if examples is None else named(context.task.step_metric)(context, examples)
