"""What each step of a compression costs in accuracy, and the end of the job where that is too much."""

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
    """Measures the model on the same validation rows after each step. Raises `JobError` where there are none and a step
    has a limit; where none has, the facts say that nothing was measured.

    Nothing is measured where the context is not `judged`: the file of a trial is measured whole, and what loses too
    much cannot win.
    """

    def __init__(self, model: nn.Module, specs: Sequence[StepSpec], context: StepContext) -> None:
        self._specs, self._workplace = specs, context
        found = None
        if context.judged:
            found = step_metric(context, limited=any(context.max_loss(spec) < 1 for spec in specs))
        self._last = self._agreed = None if found is None else found.metric(model)

    def at(self, context: StepContext) -> StepLoss:
        """One for a file on its own way from here: what it loses is noted there."""
        judge = copy.copy(self)
        judge._workplace = context
        return judge

    def after(self, number: int, model: nn.Module | Path) -> None:
        """Note what step `number` lost. Raises `JobError` where it is more than its `max_loss`.

        Steps that a later one trains after are not judged: that one is, with all that it did not win back.
        """
        if not self._workplace.judged:
            return
        spec, before = self._specs[number], self._last
        found = step_metric(
            self._workplace, limited=False
        )  # anew, as a step may have changed how the rows are tokenised
        if before is None or self._agreed is None or found is None:
            self._workplace.note(spec, measured="no: there are no prepared validation rows of this student")
            return
        self._last = found.metric(model)
        self._workplace.note(spec, before=before, after=self._last, rows=found.rows)
        log.info("%s: validation %s %.4f, before %.4f", spec.title, found.name, self._last, before)
        if any(later.trains for later in self._specs[number + 1 :]):
            return
        allowed = self._workplace.max_loss(spec)
        if lost(self._agreed, self._last) > allowed:
            raise JobError(
                f"compression[{number}]: {spec.title!r} lowers validation {found.name} from {self._agreed:.4g} to "
                f"{self._last:.4g} ({found.rows} rows); it may lose {allowed:.2%} of it: ask less of the step, train "
                f"after it, or raise its max_loss"
            )
        self._agreed = self._last
