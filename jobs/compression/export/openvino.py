"""OpenVINO: the exported ONNX graph as IR, and its int8 form by NNCF."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from configs.schema.compression import QuantizeSpec
from jobs.compression import int8
from jobs.compression.checks.sensitivity import quantize_guarded
from jobs.compression.export.onnx import graph_of, try_graph
from jobs.compression.step_context import StepContext
from serving.runtimes.openvino import import_openvino

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from jobs.models.encoder import EncoderClassifier

WEIGHTS = {"MatMul": 1, "Convolution": 1, "Gather": 0}  # kind of a layer: the input that holds its weights


def export(model: EncoderClassifier, made: Path, context: StepContext) -> None:
    """Write `made` (.xml) and its weights beside it (.bin), in float32 whatever the later precision."""
    write_ir(graph_of(model, context), made)


def try_export(config: PreTrainedConfig) -> None:
    """Write the IR of a small model of `config`. Raises where that fails."""
    with tempfile.TemporaryDirectory() as folder:
        write_ir(try_graph(config, Path(folder)), Path(folder, "small.xml"))


def write_ir(graph: Path, made: Path) -> None:
    """Write `made`, the IR of the ONNX file `graph`, with every layer under the name of its weights."""
    named = made.with_suffix(".onnx")
    onnx.save(int8.read(graph), str(named))
    openvino = import_openvino()
    whole = openvino.Core().read_model(named)  # its convert_model would set the level of the root logger to ERROR
    openvino.save_model(whole, made, compress_to_fp16=False)


def quantize(file: Path, spec: QuantizeSpec, made: Path, context: StepContext) -> None:
    """Write `made`, the int8 form of `file`: weights scaled per channel, activations by calibration rows.

    Raises `JobError` where there are no prepared rows, or where the guard cannot keep the loss in its limit. Every file
    that the guard asks for is calibrated anew.
    """
    openvino = import_openvino()
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)  # its set_log_level takes handlers of others along
    feeds = context.rows("train", spec.calibration_rows).feeds
    whole = openvino.Core().read_model(file)
    nodes = {name.removesuffix("/WithoutBiases"): name for name in _layers(whole)}  # its name for a Gemm

    def convert(chosen: Collection[str]) -> Path:
        with contextlib.redirect_stdout(io.StringIO()):  # it draws its progress
            small = nncf.quantize(
                whole,
                nncf.Dataset(feeds),
                subset_size=len(feeds),
                model_type=nncf.ModelType.TRANSFORMER,
                target_device=nncf.TargetDevice.CPU,
                ignored_scope=nncf.IgnoredScope(names=[nodes[layer] for layer in nodes if layer not in chosen]),
            )
        openvino.save_model(small, made, compress_to_fp16=False)
        return made

    quantize_guarded(file, list(nodes), convert, spec, context)


def _layers(whole: Any) -> Iterator[str]:
    """Names of the nodes that multiply by a constant matrix or look up in a constant table of numbers."""
    for node in whole.get_ordered_ops():
        place = WEIGHTS.get(node.get_type_name())
        if place is not None:
            weights = node.input_value(place).get_node()
            if weights.get_type_name() == "Constant" and weights.get_element_type().is_real():
                yield node.get_friendly_name()
