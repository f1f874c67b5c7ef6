"""What each step of a compression costs in accuracy, and the end of the job where that is too much."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster.session import JobError
from jobs.compression.guard import lost
from jobs.compression.rows import metric, token_accuracy
from jobs.compression.spec import StepSpec
from jobs.compression.workplace import JUDGED, Workplace
from jobs.tasks import classify

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)


class Gauge(NamedTuple):
    """What steps are judged by."""

    name: str
    rows: int
    of: Callable[[Any], float]  # a model, or an exported file
    of_files: bool = True


class Judge:
    """Measures the model on the same validation rows after each step; where there are none, the facts say so.

    Nothing is measured where the workplace is not `judged`: the file of a trial is measured whole, and what loses too
    much cannot win.
    """

    def __init__(self, model: nn.Module, specs: Sequence[StepSpec], workplace: Workplace) -> None:
        self._specs, self._workplace = specs, workplace
        gauge = _gauge(workplace) if workplace.judged else None
        self._last = self._agreed = None if gauge is None else gauge.of(model)

    def after(self, number: int, model: nn.Module | Path) -> None:
        """Note what step `number` lost. Raises `JobError` where it is more than its `max_loss`.

        Steps that a later one trains after are not judged: that one is, with all that it did not win back.
        """
        if not self._workplace.judged:
            return
        spec, before = self._specs[number], self._last
        gauge = _gauge(self._workplace)  # anew, as a step may have changed how the rows are tokenised
        if before is None or self._agreed is None or gauge is None:
            self._workplace.note(spec, measured="no: there are no prepared validation rows of this student")
            return
        if isinstance(model, Path) and not gauge.of_files:
            self._workplace.note(spec, measured="no: a decoder's file is held to the texts that the model writes")
            return
        self._last = gauge.of(model)
        self._workplace.note(spec, before=before, after=self._last, rows=gauge.rows)
        log.info("%s: validation %s %.4f, before %.4f", spec.title, gauge.name, self._last, before)
        if any(later.trains for later in self._specs[number + 1 :]):
            return
        allowed = self._workplace.max_loss(spec)
        if lost(self._agreed, self._last) > allowed:
            raise JobError(
                f"compression[{number}]: {spec.title!r} lowers validation {gauge.name} from {self._agreed:.4g} to "
                f"{self._last:.4g} ({gauge.rows} rows); it may lose {allowed:.2%} of it: ask less of the step, train "
                f"after it, or raise its max_loss"
            )
        self._agreed = self._last


def _gauge(workplace: Workplace) -> Gauge | None:
    """The metric of a classifier; of a decoder, whose texts take long, the tokens that it would choose."""
    if (rows := workplace.validation()) is not None:
        return Gauge(classify.METRIC, len(rows), functools.partial(metric, rows=rows))
    if workplace.recipe.task == "classify" or workplace.recipe.output is None:
        return None
    try:
        examples = workplace.prepared.examples("validation")
    except JobError:
        return None
    of = functools.partial(token_accuracy, examples=examples, most=JUDGED)
    return Gauge("token accuracy", min(JUDGED, len(examples)), of, of_files=False)
