"""Agreement of an exported file with the model that it was made from; the task says how they are compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torch import nn

from configs.schema.tasks import named
from jobs.compression.step_context import StepContext
from jobs.data.prepared import Examples

ROWS = 1000  # validation rows at most


class Parity(NamedTuple):
    """Agreement over validation rows."""

    rows: int
    same: float  # share of rows with the same label, or the same text to its end
    difference: float | None = None  # largest difference of a logit


Compare = Callable[[Path, str], Parity]  # (file, precision) -> its agreement


def comparison(model: nn.Module, context: StepContext) -> Compare | None:
    """A comparison of files with `model`, which answers once; None where no rows were prepared and none are needed.

    Raises `JobError` where no rows were prepared and `export.parity` needs them.
    """
    return named(context.task.agreement)(model, context)


def least(context: StepContext, is_float: bool, competing: bool = True) -> float | None:
    """The share of rows on which a file must answer as the model does; None where only its metric counts.

    `competing`: the file is one of several, or computes in another precision than f32.
    """
    usual = named(context.task.least_agreement)(context, is_float, competing)
    parity = context.recipe.export.parity
    return usual if usual is None or parity is None else parity


def compared_rows(context: StepContext) -> Examples | None:
    """The validation rows; see `StepContext.validation`."""
    return context.validation((least(context, is_float=True) or 0.0) > 0)
