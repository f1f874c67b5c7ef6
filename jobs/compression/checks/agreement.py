"""How far an exported file answers as the model that it was made from; how that is compared is the task's to say."""

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
    """Over the validation rows there are."""

    rows: int
    same: float  # share with the same label, or the same text to its end
    difference: float | None = None  # the largest of a logit


Compare = Callable[[Path, str], Parity]  # of a file, computed in a precision


def comparison(model: nn.Module, context: StepContext) -> Compare | None:
    """What holds files to `model`, asked once; None where no rows were prepared and any answer will do.

    Raises `JobError` where there are none and `export.parity` asks for more.
    """
    return named(context.task.agreement)(model, context)


def least(context: StepContext, is_float: bool, competing: bool = True) -> float | None:
    """The share of rows on which a file must answer as the model; None where nothing but its metric is asked for.

    `competing`: it is one of several, or computes in another precision than f32.
    """
    usual = named(context.task.least_agreement)(context, is_float, competing)
    given = context.recipe.export.parity
    return usual if usual is None or given is None else given


def compared_rows(context: StepContext) -> Examples | None:
    """The validation rows; see `StepContext.validation`."""
    return context.validation((least(context, is_float=True) or 0.0) > 0)
