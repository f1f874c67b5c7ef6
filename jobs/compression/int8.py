"""ONNX graphs in 8 bits, for ONNX Runtime: lists the layers of a graph, and converts chosen ones.

A layer is a product with a constant matrix (MatMul, Gemm) or a look-up in a constant table (Gather). Products of two
activations, inside attention, stay in float: a few per cent of the work. Numbers between layers are float; each product
rounds its input to a range that calibration rows fixed, so that an answer depends on its own text alone.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationMethod
from onnxruntime.quantization.calibrate import CalibrationDataReader, create_calibrator

from configs.schema.compression import QuantizeSpec

Ranges = Mapping[str, tuple[float, float]]  # least and most of an activation, by name
WEIGHTS = {"MatMul": 1, "Gemm": 1, "Gather": 0}  # kind of a layer: the input that holds its weights
CONTRIBUTED = "com.microsoft"  # domain of the runtime's own operations
LARGEST = {False: 127, True: 64}  # code of a symmetric weight, in 8 bits and in 7
LEVELS = 255  # steps of an asymmetric tensor
ORIGIN = 128  # code of 0 in a table
SMALLEST = float(np.finfo(np.float32).tiny)  # scale that is not taken for 0
METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


def read(file: Path) -> ModelProto:
    """The graph of an ONNX file; every layer gets a name of its own, that of its weights if they have one."""
    model = onnx.load(str(file))
    _name(model.graph)
    return model


def layers(model: ModelProto) -> list[str]:
    """Names of all layers, from the input to the output."""
    return [node.name for node in _layers(model.graph)]


def calibrate(model: ModelProto, feeds: Iterable[dict[str, np.ndarray]], spec: QuantizeSpec, folder: Path) -> Ranges:
    """The range of every activation over the feeds; `folder` is for files in between."""
    file = folder / "calibrated.onnx"
    onnx.save(model, str(file))
    with _hushed():
        calibrator = create_calibrator(
            file, list(WEIGHTS), str(folder / "observed.onnx"), calibrate_method=METHODS[spec.calibration]
        )
        for feed in feeds:  # one by one: batches of different lengths make no common array
            calibrator.collect_data(_Once(feed))
        observed = calibrator.compute_data()
    ends = {name: each.range_value for name, each in observed.data.items()}
    return {name: (np.asarray(least).item(), np.asarray(most).item()) for name, (least, most) in ends.items()}


def quantize(model: ModelProto, ranges: Ranges, chosen: Collection[str], spec: QuantizeSpec, made: Path) -> None:
    """Write `made` with the chosen layers in 8 bits: weights and tables by their values, inputs by their `ranges`."""
    small = ModelProto()
    small.CopyFrom(model)
    _Rewritten(small.graph, ranges, spec).put(chosen)
    small.opset_import.append(helper.make_opsetid(CONTRIBUTED, 1))
    onnx.save(small, str(made))


class _Rewritten:
    """A graph whose layers become operations on integers, in place."""

    def __init__(self, graph: GraphProto, ranges: Ranges, spec: QuantizeSpec) -> None:
        self._graph, self._ranges, self._spec = graph, ranges, spec
        self._constants = {each.name: each for each in graph.initializer}
        self._readers = Counter(name for node in graph.node for name in node.input)
        self._nodes: list[NodeProto] = []
        self._inputs: dict[str, tuple[str, str, str]] = {}  # activation: itself in 8 bits, its scale, its zero point

    def put(self, chosen: Collection[str]) -> None:
        """Put the `chosen` layers in 8 bits, and remove constants that nothing reads any more."""
        layers = {node.output[0] for node in _layers(self._graph) if node.name in chosen}
        sums = {name: node for node in self._graph.node if node.op_type == "Add" for name in node.input}
        done: set[str] = set()  # sums with a bias, which the product before them adds
        for node in self._graph.node:
            output = node.output[0]
            if output in done:
                continue
            if output not in layers:
                self._nodes.append(node)
            elif node.op_type == "Gather":
                self._look_up(node)
            else:
                bias = node.input[2] if len(node.input) > 2 else ""
                if not bias and output in sums and (bias := self._bias(node, sums[output])):
                    output = sums[output].output[0]
                    done.add(output)
                self._multiply(node, bias, output)
        kept = {name for node in self._nodes for name in node.input}
        constants = [each for each in self._constants.values() if each.name in kept]
        del self._graph.node[:], self._graph.initializer[:]
        self._graph.node.extend(self._nodes)
        self._graph.initializer.extend(constants)

    def _bias(self, product: NodeProto, add: NodeProto) -> str:
        """The vector that `add` adds to the outputs of a product that nothing else reads; "" where there is none."""
        (other,) = (name for name in add.input if name != product.output[0])
        constant = self._constants.get(other)
        width = self._constants[product.input[1]].dims[-1]
        alone = self._readers[product.output[0]] == 1
        return other if alone and constant is not None and list(constant.dims) == [width] else ""

    def _multiply(self, node: NodeProto, bias: str, output: str) -> None:
        """Add the runtime's own operation, which applies the bias and both scales while the sums are in registers."""
        given, scale, zero = self._in_8_bits(node.input[0])
        weight, weight_scale = self._weight(node)
        inputs = [given, weight, scale, weight_scale, zero, "", bias]
        kind = "MatMulIntegerToFloat"
        self._nodes.append(helper.make_node(kind, inputs, [output], name=node.name, domain=CONTRIBUTED))

    def _look_up(self, node: NodeProto) -> None:
        """Rows of the table in symmetric 8 bits, each with a scale of its own, made float by the look-up."""
        table_VH = numpy_helper.to_array(self._constants[node.input[0]])
        names = f"{node.input[0]}_quantized", f"{node.input[0]}_scale"
        if names[0] not in self._constants:
            scale_V1 = _scale(np.abs(table_VH).max(1, keepdims=True), LARGEST[False])
            self._add(names[0], (np.rint(table_VH / scale_V1) + ORIGIN).astype(np.uint8))
            self._add(names[1], scale_V1)
        whole = 1 << max(4, (table_VH.shape[1] - 1).bit_length())  # the operation takes powers of two from 16 on
        inputs, output = [names[0], node.input[1], names[1]], list(node.output)
        further: dict[str, Any] = {"bits": 8, "block_size": whole, "gather_axis": 0, "quantize_axis": 1}
        kind = "GatherBlockQuantized"
        self._nodes.append(helper.make_node(kind, inputs, output, name=node.name, domain=CONTRIBUTED, **further))

    def _in_8_bits(self, name: str) -> tuple[str, str, str]:
        """An activation in uint8, once for all products that read it."""
        if name not in self._inputs:
            step, origin = _asymmetric(*self._ranges[name])
            self._inputs[name] = names = (f"{name}_in_8_bits", f"{name}_scale", f"{name}_zero_point")
            self._add(names[1], step)
            self._add(names[2], origin)
            self._nodes.append(helper.make_node("QuantizeLinear", [name, *names[1:]], names[:1], name=names[0]))
        return self._inputs[name]

    def _weight(self, node: NodeProto) -> tuple[str, str]:
        """A matrix [K, N] in symmetric int8, and its scales."""
        names = f"{node.input[1]}_quantized", f"{node.input[1]}_scale"
        if names[0] not in self._constants:
            weight_KN = numpy_helper.to_array(self._constants[node.input[1]])
            if any(each.name == "transB" and each.i for each in node.attribute):
                weight_KN = weight_KN.T
            largest = LARGEST[self._spec.reduce_range]
            scale_N = _scale(np.abs(weight_KN).max(0 if self._spec.per_channel else None), largest)
            self._add(names[0], np.clip(np.rint(weight_KN / scale_N), -largest, largest).astype(np.int8))
            self._add(names[1], scale_N)
        return names

    def _add(self, name: str, array: np.ndarray) -> None:
        self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)


def _scale(size: np.ndarray, levels: int) -> np.ndarray:
    """`size` over `levels`; 1 where all numbers are 0."""
    scale = np.asarray(size, np.float32) / np.float32(levels)
    return np.where(scale < SMALLEST, np.float32(1), scale)


def _asymmetric(least: float, most: float) -> tuple[np.ndarray, np.ndarray]:
    """(scale, zero point) of uint8 numbers that hold a whole range and 0."""
    least, most = min(least, 0.0), max(most, 0.0)
    scale = _scale(np.array(most - least), LEVELS)
    return scale, np.array(round(-least / float(scale)), np.uint8)


class _Once(CalibrationDataReader):
    def __init__(self, feed: dict[str, np.ndarray]) -> None:
        self._left: list[dict[str, np.ndarray]] = [feed]

    def get_next(self) -> dict[str, np.ndarray] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._left.pop() if self._left else None


def _layers(graph: GraphProto) -> Iterator[NodeProto]:
    constant = {each.name for each in graph.initializer if each.data_type == TensorProto.FLOAT}
    for node in graph.node:
        if node.op_type in WEIGHTS and node.input[WEIGHTS[node.op_type]] in constant:
            yield node


def _name(graph: GraphProto) -> None:
    """Name the layers: a product's weights are folded constants without a name, but the bias added next has one."""
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


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Silence the quantiser, which prints its progress and advises pre-processing that changes nothing here."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.root.setLevel(level)
