"""The table of compression steps, and running them in the recipe's order.

Before `export` a step is `(model, spec) -> model`; after it `(file, spec, new file) -> None`. One whose spec
`looks_around` is handed a `Workplace` as well. A new step is one spec, one function and one line here; what it cannot
be combined with stands in `jobs.compression.spec.APART`.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.compression.spec import (
    ClusterSpec,
    CodeSpec,
    ExportStep,
    FoldSpec,
    PruneSpec,
    QuantizeSpec,
    StepSpec,
    VocabularySpec,
)

if TYPE_CHECKING:
    from jobs.compression.workplace import Workplace
    from jobs.models.encoder import EncoderClassifier

STEPS: dict[type[StepSpec], str] = {
    PruneSpec: "jobs.compression.prune:prune",
    VocabularySpec: "jobs.compression.vocabulary:prune_vocabulary",
    ClusterSpec: "jobs.compression.cluster:cluster",
    FoldSpec: "jobs.compression.fold:fold",
    ExportStep: "jobs.compression.export:export_onnx",
    QuantizeSpec: "jobs.compression.quantize:quantize",
    CodeSpec: "jobs.compression.code:code",
}

log = logging.getLogger(__name__)


def step(spec: StepSpec) -> Callable[..., Any]:
    """The function of a step's spec; its module is imported only now."""
    module, _, name = STEPS[type(spec)].partition(":")
    return getattr(importlib.import_module(module), name)


def compress(model: EncoderClassifier, specs: Sequence[StepSpec], workplace: Workplace) -> Path:
    """Apply all steps; returns the last file, which lies in the folder of `workplace`. `model` stays as it was."""
    split = next(index for index, spec in enumerate(specs) if isinstance(spec, ExportStep))
    for spec in specs[:split]:
        model = step(spec)(model, spec, *_around(spec, workplace))
    file = workplace.folder / "0.onnx"
    step(specs[split])(model, workplace.inputs, file)
    for number, spec in enumerate(specs[split + 1 :], 1):
        made = workplace.folder / f"{number}.onnx"
        step(spec)(file, spec, made, *_around(spec, workplace))
        file = made
    return file


def _around(spec: StepSpec, workplace: Workplace) -> tuple[Workplace, ...]:
    return (workplace,) if spec.looks_around else ()
