"""Int8 with ONNX Runtime: weights and embedding tables in 8 bits, activations in ranges that training rows fix."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from configs.schema.compression import QuantizeSpec
from jobs.compression import int8
from jobs.compression.checks.sensitivity import quantize_guarded
from jobs.compression.step_context import StepContext


def quantize(file: Path, spec: QuantizeSpec, made: Path, context: StepContext) -> None:
    """Write `made`, the int8 form of the ONNX `file`.

    Raises `JobError` where there are no prepared training rows, or where the guard cannot keep the loss in its limit.
    """
    model = int8.read(file)
    ranges = int8.calibrate(model, context.rows("train", spec.calibration_rows).feeds, spec, context.folder)

    def convert(chosen: Collection[str]) -> Path:
        int8.quantize(model, ranges, chosen, spec, made)
        return made

    quantize_guarded(file, int8.layers(model), convert, spec, context)
