"""Int8 with ONNX Runtime: weights and embedding tables in 8 bits, activations scaled while it runs or beforehand."""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection
from pathlib import Path

from jobs.compression import int8
from jobs.compression.guard import guarded
from jobs.compression.spec import QuantizeSpec
from jobs.compression.workplace import Workplace

SENSITIVITY_ROWS = 256  # validation rows that the sensitivity of a layer is measured on

log = logging.getLogger(__name__)


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

    rows = workplace.validation() if spec.guard else None
    if rows is None:
        convert(layers)
        workplace.note(spec, guard="no rows to measure on" if spec.guard else "off")
        return
    few = workplace.rows("validation", SENSITIVITY_ROWS)
    found = guarded(file, layers, convert, rows, few, workplace.max_loss(spec))
    if found.in_float:
        log.warning("int8 leaves %d of %d layers in float: %s", len(found.in_float), len(layers), found.in_float)
    workplace.note(spec, layers=len(layers), in_float=found.in_float, sensitivity=found.sensitivity)
