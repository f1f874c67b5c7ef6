"""Int8 with ONNX Runtime: weights and embedding tables in 8 bits, activations scaled while it runs or beforehand."""

from __future__ import annotations

import functools
from collections.abc import Collection
from pathlib import Path

from jobs.compression import int8
from jobs.compression.guard import quantize_guarded
from jobs.compression.spec import QuantizeSpec
from jobs.compression.workplace import Workplace


def quantize(file: Path, spec: QuantizeSpec, made: Path, workplace: Workplace) -> None:
    """Write `made`, the int8 form of the ONNX `file`.

    Raises `JobError` where `mode: static` finds no training rows, or where the guard cannot keep the loss in its limit.
    """
    model = int8.read(file)
    layers = int8.layers(model)
    put = functools.partial(int8.dynamic, model)
    if spec.mode == "static":
        int8.calibrate(model, workplace.rows("train", spec.calibration_rows).feeds, spec, workplace.folder)
        put = functools.partial(int8.static, workplace.folder)

    def convert(chosen: Collection[str]) -> Path:
        put(chosen, spec, made)
        return made

    quantize_guarded(file, layers, convert, spec, workplace)
