"""What a model under compression, or a file of it, is measured by: prepared validation rows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jobs.compression.rows import logits, metric, token_accuracy, token_logits
from jobs.compression.workplace import Workplace
from jobs.data.feeds import Rows, spread
from jobs.data.prepared import Examples
from jobs.tasks import classify

if TYPE_CHECKING:
    from torch import nn

JUDGED = 2000  # validation rows at most that a step is judged on
ANSWERS = 256  # at most that two files are compared by: to rows, or of a decoder for the next token
TEXTS = 32  # rows at most that a decoder's are taken from


@dataclass(frozen=True)
class Gauge:
    """A metric over `rows` rows, and the answers behind it over a few of them."""

    name: str
    rows: int
    metric: Callable[[nn.Module | Path], float]
    answers: Callable[[nn.Module | Path], np.ndarray]  # logits [N, C], of rows or of tokens


def gauge(workplace: Workplace, limited: bool) -> Gauge | None:
    """The budget's metric of a classifier; of a decoder, whose texts take long, the tokens that it would choose.

    Without prepared rows of this student None, or a `JobError`; see `Workplace.validation`.
    """
    if (examples := workplace.validation(limited)) is None:
        return None
    if workplace.recipe.task == "generate":
        return of_tokens(examples)
    few = functools.partial(workplace.fed, examples, ANSWERS)
    return of_labels(workplace.fed(examples, JUDGED), few, workplace.recipe.judged_by.metric)


def of_labels(rows: Rows, few: Callable[[], Rows], name: str = classify.METRIC) -> Gauge:
    """Of a classifier; `few` gives the rows of the answers, and is asked once, where answers are asked for."""
    once = functools.cache(few)
    return Gauge(
        name,
        len(rows),
        functools.partial(metric, rows=rows, name=name),
        lambda model: logits(model, once()),
    )


def of_tokens(examples: Examples) -> Gauge:
    """Of a decoder."""

    def answers(model: nn.Module | Path) -> np.ndarray:
        logits_NV = np.concatenate([logits_NV for logits_NV, _ in token_logits(model, examples, TEXTS)])
        return logits_NV[spread(len(logits_NV), ANSWERS)]

    return Gauge(
        "token accuracy",
        min(JUDGED, len(examples)),
        functools.partial(token_accuracy, examples=examples, most=JUDGED),
        answers,
    )
