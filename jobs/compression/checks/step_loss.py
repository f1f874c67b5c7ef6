"""The loss of each step of a compression in the metric; too large a loss ends the job."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.session import JobError
from configs.schema.compression import StepSpec
from jobs.compression.checks.metric import step_metric
from jobs.compression.checks.sensitivity import lost
from jobs.compression.step_context import StepContext

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)


class StepLoss:
    """Measures the model on the same validation rows after each step.

    Raises `JobError` where there are no rows and a step has a limit; without limits the facts say that nothing was
    measured. Nothing is measured where the context is not `judged`: the file of a trial is measured whole, and cannot
    win if it loses too much.
    """

    def __init__(self, model: nn.Module, specs: Sequence[StepSpec], context: StepContext) -> None:
        self._specs, self._context = specs, context
        metric = None
        if context.judged:
            metric = step_metric(context, limited=any(context.max_loss(spec) < 1 for spec in specs))
        self._last = self._agreed = None if metric is None else metric.metric(model)

    def at(self, context: StepContext) -> StepLoss:
        """A copy for a file of one runtime, which goes on from here: losses are noted in the file's `context`."""
        judge = copy.copy(self)
        judge._context = context
        return judge

    def after(self, number: int, model: nn.Module | Path) -> None:
        """Note what step `number` lost. Raises `JobError` where it is more than the step's `max_loss`.

        Steps before one that trains are not judged: the training step is, by all that it did not win back.
        """
        if not self._context.judged:
            return
        spec, before = self._specs[number], self._last
        metric = step_metric(self._context, limited=False)  # anew: a step may have changed how the rows are tokenised
        if before is None or self._agreed is None or metric is None:
            self._context.note(spec, measured="no: there are no prepared validation rows of this student")
            return
        self._last = metric.metric(model)
        self._context.note(spec, before=before, after=self._last, rows=metric.rows)
        log.info("%s: validation %s %.4f, before %.4f", spec.title, metric.name, self._last, before)
        if any(later.trains for later in self._specs[number + 1 :]):
            return
        allowed = self._context.max_loss(spec)
        if lost(self._agreed, self._last) > allowed:
            raise JobError(
                f"compression[{number}]: {spec.title!r} lowers validation {metric.name} from {self._agreed:.4g} to "
                f"{self._last:.4g} ({metric.rows} rows); it may lose {allowed:.2%} of it: ask less of the step, train "
                f"after it, or raise its max_loss"
            )
        self._agreed = self._last
