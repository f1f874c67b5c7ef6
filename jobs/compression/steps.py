"""The tables of compression steps and of exports, and running them in the recipe's order.

Before `export` a step is `(model, spec, workplace) -> model`; after it `(file, spec, new file, workplace) -> None`. A
new step is one spec, one function and one line here; what it cannot be combined with stands in
`configs.schema.compression.APART`.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster import quiet
from cluster.session import JobError
from configs.schema.compression import (
    ClusterSpec,
    CodeSpec,
    DistillStep,
    ExportStep,
    FoldSpec,
    PruneSpec,
    QuantizeSpec,
    ShrinkSpec,
    StepSpec,
    VocabularySpec,
)
from jobs.compression.judge import Judge

if TYPE_CHECKING:
    from torch import nn

    from jobs.compression.workplace import Workplace

STEPS: dict[type[StepSpec], str] = {
    PruneSpec: "jobs.compression.prune:prune",
    ShrinkSpec: "jobs.compression.shrink:shrink",
    DistillStep: "jobs.compression.distill:distill_further",
    VocabularySpec: "jobs.compression.vocabulary:prune_vocabulary",
    ClusterSpec: "jobs.compression.cluster:cluster",
    FoldSpec: "jobs.compression.fold:fold",
    QuantizeSpec: "jobs.compression.quantize:quantize",
    CodeSpec: "jobs.compression.code:code",
}

EXPORTS = {  # by runtime: (model, new file, workplace) -> None
    "onnxruntime": "jobs.compression.export:export",
    "openvino": "jobs.compression.openvino:export",
    "ctranslate2": "jobs.compression.ctranslate2:export",
}

OF_RUNTIME: dict[tuple[str, type[StepSpec]], str] = {  # steps after export on files other than ONNX
    ("openvino", QuantizeSpec): "jobs.compression.openvino:quantize",
    ("ctranslate2", QuantizeSpec): "jobs.compression.ctranslate2:quantize",
}

SUFFIXES = {"onnxruntime": ".onnx", "openvino": ".xml", "ctranslate2": ""}  # of CTranslate2 a folder


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


def compress(model: nn.Module, specs: Sequence[StepSpec], workplace: Workplace, runtimes: Sequence[str]) -> Compressed:
    """Apply all steps, those after export for each of the runtimes. `model` stays as it was.

    The files lie in the folder of `workplace`. Raises `JobError` where a step loses more than its `max_loss`, see
    `Judge`; of several runtimes those are left out in which it does.
    """
    split = next(index for index, spec in enumerate(specs) if isinstance(spec, ExportStep))
    judge = Judge(model, specs, workplace)
    for number, spec in enumerate(specs[:split]):
        with _beside_measurements(spec):
            model = _function(STEPS[type(spec)])(model, spec, workplace)
        judge.after(number, model)
    made = Compressed(model, {}, {})
    for runtime in runtimes:
        own = copy.copy(workplace)
        own.facts = copy.deepcopy(workplace.facts)
        try:
            made.files[runtime] = _exported(model, specs, split, own, runtime, judge.at(own))
        except JobError as error:
            if len(runtimes) == 1:
                raise
            made.left_out[runtime] = str(error)
    return made


def _exported(
    model: nn.Module, specs: Sequence[StepSpec], split: int, workplace: Workplace, runtime: str, judge: Judge
) -> Exported:
    folder = workplace.folder / runtime
    folder.mkdir()
    file = whole = folder / f"0{SUFFIXES[runtime]}"
    with _beside_measurements(specs[split]):
        _function(EXPORTS[runtime])(model, whole, workplace)
    judge.after(split, whole)
    for number, spec in enumerate(specs[split + 1 :], 1):
        made = folder / f"{number}{SUFFIXES[runtime]}"
        with _beside_measurements(spec):
            _function(OF_RUNTIME.get((runtime, type(spec)), STEPS[type(spec)]))(file, spec, made, workplace)
        judge.after(split + number, made)
        file = made
    return Exported(whole, file, workplace.facts)


def _function(named: str) -> Callable[..., Any]:
    """What a table names; its module is imported only now."""
    module, _, name = named.partition(":")
    return getattr(importlib.import_module(module), name)


def _beside_measurements(spec: StepSpec) -> AbstractContextManager[None]:
    """No step works beside a measurement. One that waits for them itself would wait for ever for its own caller."""
    return nullcontext() if spec.asks_for_quiet else quiet.at_work()
