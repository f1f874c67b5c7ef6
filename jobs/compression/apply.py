"""The table of compression steps, and running them in the recipe's order.

Before `export` a step is `(model, spec, context) -> model`; after it `(file, spec, new file, context) -> None`. A
new step is one spec, one function and one line: here, or in `configs.schema.runtimes.RUNTIMES` where it works on files;
what it cannot be combined with stands in `configs.schema.compression.APART`. docs/extending.md shows one.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster import quiet
from cluster.session import JobError
from configs.schema.compression import ExportStep, StepSpec
from configs.schema.runtimes import RUNTIMES
from configs.schema.tasks import named
from jobs.compression.checks.step_loss import StepLoss

if TYPE_CHECKING:
    from torch import nn

    from jobs.compression.step_context import StepContext

STEPS = {  # before export; those after it are in the record of a runtime
    "prune": "jobs.compression.steps.prune:prune",
    "shrink": "jobs.compression.steps.shrink:shrink",
    "distill": "jobs.compression.steps.distill:distill_further",
    "vocabulary": "jobs.compression.steps.vocabulary:prune_vocabulary",
    "cluster": "jobs.compression.steps.weight_sharing:cluster",
    "fold": "jobs.compression.steps.fold:fold",
}


class Exported(NamedTuple):
    """A model under way to a runtime."""

    whole: Path  # as it was exported
    last: Path  # after all steps
    facts: dict[str, Any]  # of all steps, those of other runtimes aside


class Compressed(NamedTuple):
    """What came of a model: itself as it was exported, and by runtime files, or why there are none."""

    model: nn.Module
    files: dict[str, Exported]
    left_out: dict[str, str]


def compress(model: nn.Module, specs: Sequence[StepSpec], context: StepContext, runtimes: Sequence[str]) -> Compressed:
    """Apply all steps, those after export for each of the runtimes. `model` stays as it was.

    The files lie in the folder of `context`. Raises `JobError` where a step loses more than its `max_loss`, see
    `Judge`; of several runtimes those are left out in which it does.
    """
    split = next(index for index, spec in enumerate(specs) if isinstance(spec, ExportStep))
    judge = StepLoss(model, specs, context)
    for number, spec in enumerate(specs[:split]):
        with _beside_measurements(spec):
            model = named(STEPS[spec.kind])(model, spec, context)
        judge.after(number, model)
    made = Compressed(model, {}, {})
    for runtime in runtimes:
        own = copy.copy(context)
        own.facts = copy.deepcopy(context.facts)
        try:
            made.files[runtime] = _exported(model, specs, split, own, runtime, judge.at(own))
        except JobError as error:
            if len(runtimes) == 1:
                raise
            made.left_out[runtime] = str(error)
    return made


def _exported(
    model: nn.Module, specs: Sequence[StepSpec], split: int, context: StepContext, runtime: str, judge: StepLoss
) -> Exported:
    folder, record = context.folder / runtime, RUNTIMES[runtime]
    folder.mkdir()
    file = whole = folder / f"0{record.suffix}"
    assert record.export is not None
    with _beside_measurements(specs[split]):
        named(record.export)(model, whole, context)
    judge.after(split, whole)
    for number, spec in enumerate(specs[split + 1 :], 1):
        made = folder / f"{number}{record.suffix}"
        with _beside_measurements(spec):
            named(record.steps[spec.kind].function)(file, spec, made, context)
        judge.after(split + number, made)
        file = made
    return Exported(whole, file, context.facts)


def _beside_measurements(spec: StepSpec) -> AbstractContextManager[None]:
    """No step works beside a measurement. One that waits for them itself would wait for ever for its own caller."""
    return nullcontext() if spec.asks_for_quiet else quiet.at_work()
