"""The table of compression steps, and running them in the recipe's order.

A step before `export` is `(model, spec, context) -> model`; a step after it is `(file, spec, new file, context) ->
None`. A new step is one spec, one function and one line: here, or in `configs.schema.runtimes.RUNTIMES` if it works on
files; steps that it cannot be combined with stand in `configs.schema.compression.APART`. docs/extending.md shows one.
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
    """The files of a model for one runtime."""

    whole: Path  # the exported file
    last: Path  # the file after all steps
    facts: dict[str, Any]  # of all steps, without those for other runtimes


class Compressed(NamedTuple):
    """A model after the steps before export, and by runtime its files, or the reason why there are none."""

    model: nn.Module
    files: dict[str, Exported]
    left_out: dict[str, str]


def compress(model: nn.Module, specs: Sequence[StepSpec], context: StepContext, runtimes: Sequence[str]) -> Compressed:
    """Apply all steps, the ones after export for each of the runtimes. `model` stays as it was.

    The files lie in the folder of `context`. Raises `JobError` where a step loses more than its `max_loss`, see
    `StepLoss`; among several runtimes, one in which a step does so is left out.
    """
    split = next(index for index, spec in enumerate(specs) if isinstance(spec, ExportStep))
    judge = StepLoss(model, specs, context)
    for number, spec in enumerate(specs[:split]):
        with _beside_measurements(spec):
            model = named(STEPS[spec.kind])(model, spec, context)
        judge.after(number, model)
    compressed = Compressed(model, {}, {})
    for runtime in runtimes:
        own = copy.copy(context)
        own.facts = copy.deepcopy(context.facts)
        try:
            compressed.files[runtime] = _exported(model, specs, split, own, runtime, judge.at(own))
        except JobError as error:
            if len(runtimes) == 1:
                raise
            compressed.left_out[runtime] = str(error)
    return compressed


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
    """Keep a step from working beside a measurement; a step that waits itself would wait for ever for its caller."""
    return nullcontext() if spec.asks_for_quiet else quiet.at_work()
