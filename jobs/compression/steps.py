"""The table of compression steps, and running them in the recipe's order.

Before `export` a step is `(model, spec) -> model`; after it `(file, spec, new file) -> None`. A new step is one
spec, one function and one line here.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from jobs.compression.spec import ExportStep, PruneSpec, QuantizeSpec

if TYPE_CHECKING:
    from jobs.models.encoder import EncoderClassifier

STEPS: dict[type[BaseModel], str] = {
    PruneSpec: "jobs.compression.prune:prune",
    ExportStep: "jobs.compression.export:export_onnx",
    QuantizeSpec: "jobs.compression.quantize:quantize",
}

log = logging.getLogger(__name__)


def step(spec: BaseModel) -> Callable[..., Any]:
    """The function of a step's spec; its module is imported only now."""
    module, _, name = STEPS[type(spec)].partition(":")
    return getattr(importlib.import_module(module), name)


def compress(model: EncoderClassifier, specs: Sequence[BaseModel], inputs: Sequence[str], folder: Path) -> Path:
    """Apply all steps; `folder` holds the files in between. Returns the last file, `model` stays as it was."""
    split = next(index for index, spec in enumerate(specs) if isinstance(spec, ExportStep))
    for spec in specs[:split]:
        model = step(spec)(model, spec)
    file = folder / "0.onnx"
    step(specs[split])(model, inputs, file)
    for number, spec in enumerate(specs[split + 1 :], 1):
        made = folder / f"{number}.onnx"
        step(spec)(file, spec, made)
        file = made
    return file
