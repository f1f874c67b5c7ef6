"""ONNX graphs in 8 bits by ONNX Runtime's quantiser: which layers a graph has, and chosen ones converted.

A layer is a product with a constant matrix (MatMul, Gemm, Conv) or a look-up in a constant table (Gather). Products of
two activations, those inside attention, stay in float: a few per cent of the work.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.calibrate import CalibrationDataReader, create_calibrator, save_tensors_data

from jobs.compression.spec import QuantizeSpec

WEIGHTS = {"MatMul": 1, "Gemm": 1, "Conv": 1, "Gather": 0}  # kind of a layer: which of its inputs holds its weights
METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


def read(file: Path) -> ModelProto:
    """The graph of an ONNX file with every layer under a name of its own, that of its weights where they have one."""
    model = onnx.load(str(file))
    _name(model.graph)
    return model


def layers(model: ModelProto) -> list[str]:
    """Names of all layers, from the input to the output."""
    return [node.name for node in _layers(model.graph)]


def dynamic(model: ModelProto, chosen: Collection[str], spec: QuantizeSpec, made: Path) -> None:
    """Write `made` with the chosen layers in 8 bits; activations are scaled in each batch."""
    with _hushed():
        quantize_dynamic(
            model,
            str(made),
            op_types_to_quantize=list(WEIGHTS),
            nodes_to_quantize=[*chosen, *(f"{layer}_MatMul" for layer in chosen)],  # what it makes of a Gemm
            per_channel=spec.per_channel,
            reduce_range=spec.reduce_range,
            weight_type=QuantType.QInt8,
        )
    _drop_shapes(made)


def calibrate(model: ModelProto, feeds: Iterable[dict[str, np.ndarray]], spec: QuantizeSpec, folder: Path) -> None:
    """Leave in `folder` what `static` needs: the graph, and the range of every activation over the feeds."""
    file, ranges = _calibrated(folder)
    separate = ModelProto()
    separate.CopyFrom(model)
    _separate_inputs(separate.graph)
    onnx.save(separate, str(file))
    with _hushed():
        calibrator = create_calibrator(
            file, list(WEIGHTS), str(folder / "observed.onnx"), calibrate_method=METHODS[spec.calibration]
        )
        for feed in feeds:  # one by one: batches of different lengths make no common array
            calibrator.collect_data(_Once(feed))
        save_tensors_data(calibrator.compute_data(), ranges)


def static(folder: Path, chosen: Collection[str], spec: QuantizeSpec, made: Path) -> None:
    """Write `made` with the chosen layers between QuantizeLinear and DequantizeLinear (QDQ), as `calibrate` found."""
    file, ranges = _calibrated(folder)
    with _hushed():
        quantize_static(
            file,
            str(made),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(WEIGHTS),
            nodes_to_quantize=list(chosen),
            per_channel=spec.per_channel,
            reduce_range=spec.reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=METHODS[spec.calibration],
            calibration_cache_path=ranges,
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},  # sums go on in float
        )
    _drop_shapes(made)


class _Once(CalibrationDataReader):
    def __init__(self, feed: dict[str, np.ndarray]) -> None:
        self._left: list[dict[str, np.ndarray]] = [feed]

    def get_next(self) -> dict[str, np.ndarray] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._left.pop() if self._left else None


def _calibrated(folder: Path) -> tuple[Path, Path]:
    return folder / "calibrated.onnx", folder / "ranges.json"


def _layers(graph: GraphProto) -> Iterator[NodeProto]:
    constant = {each.name for each in graph.initializer if each.data_type == TensorProto.FLOAT}
    for node in graph.node:
        if node.op_type in WEIGHTS and node.input[WEIGHTS[node.op_type]] in constant:
            yield node


def _name(graph: GraphProto) -> None:
    """The weights of a product are folded constants without a name; its bias is added next and has one."""
    constant = {each.name for each in graph.initializer}
    biases = {
        source: name.removesuffix(".bias")
        for node in graph.node
        if node.op_type == "Add"
        for name in node.input
        if name in constant and name.endswith(".bias")
        for source in node.input
    }
    taken: set[str] = set()
    for node in _layers(graph):
        weights = node.input[WEIGHTS[node.op_type]]
        name = weights.removesuffix(".weight") if weights.endswith(".weight") else biases.get(node.output[0])
        name = (name or node.name or node.output[0]).removeprefix("model.")
        node.name = name if name not in taken else f"{name}.{len(taken)}"
        taken.add(node.name)


def _drop_shapes(made: Path) -> None:
    """Those that the quantiser inferred, for the reason in `jobs.compression.export`."""
    model = onnx.load(str(made))
    del model.graph.value_info[:]
    onnx.save(model, str(made))


def _separate_inputs(graph: GraphProto) -> None:
    """Products read a copy of their input: the quantiser puts a tensor in 8 bits for all who read it, residuals too.

    The runtime drops the copies when it loads the graph.
    """
    copies: dict[str, str] = {}
    nodes: list[NodeProto] = []
    products = {node.name for node in _layers(graph) if node.op_type != "Gather"}
    for node in graph.node:
        if node.name in products:
            source = node.input[0]
            if source not in copies:
                copies[source] = f"{source}.in_8_bits"
                nodes.append(onnx.helper.make_node("Identity", [source], [copies[source]], name=copies[source]))
            node.input[0] = copies[source]
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """The quantiser advises pre-processing, which changes nothing for these graphs, and prints its progress."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.root.setLevel(level)
