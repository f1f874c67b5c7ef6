"""OpenVINO: the exported ONNX graph as IR, and its int8 form by NNCF."""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.compression.export import export_onnx
from jobs.compression.spec import QuantizeSpec
from jobs.compression.workplace import Workplace
from serving.runtimes.openvino import import_openvino

if TYPE_CHECKING:
    from jobs.models.encoder import EncoderClassifier


def export(model: EncoderClassifier, made: Path, workplace: Workplace) -> None:
    """Write `made` (.xml) and its weights beside it (.bin), in float32 whatever they are computed in later."""
    graph = made.with_suffix(".onnx")
    export_onnx(model, workplace.inputs, graph)
    openvino = import_openvino()
    whole = openvino.Core().read_model(graph)  # its convert_model would set the level of the root logger to ERROR
    openvino.save_model(whole, made, compress_to_fp16=False)


def quantize(file: Path, spec: QuantizeSpec, made: Path, workplace: Workplace) -> None:
    """Write `made`, the int8 form of `file`: weights scaled per channel, activations as calibration rows say.

    Raises `JobError` where there are no prepared rows.
    """
    openvino = import_openvino()
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)  # its set_log_level takes handlers of others along
    feeds = workplace.rows("train", spec.calibration_rows).feeds
    whole = openvino.Core().read_model(file)
    with contextlib.redirect_stdout(io.StringIO()):  # it draws its progress
        small = nncf.quantize(
            whole,
            nncf.Dataset(feeds),
            subset_size=len(feeds),
            model_type=nncf.ModelType.TRANSFORMER,
            target_device=nncf.TargetDevice.CPU,
        )
    openvino.save_model(small, made, compress_to_fp16=False)
