"""How much arithmetic one call is: 2 x the multiply-adds of the matrix products, counted where they happen.

Activations, norms, softmax and lookups are not counted. All products grow with the rows of a batch, so one row says it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.schema.runtimes import RUNTIMES
from configs.schema.tasks import TASKS, named
from jobs.measure.contenders import Contender
from serving.bundle import read_description
from tuning.figures import Shape

BY_LAST = {  # A [..., K] x B -> [..., N]
    "MatMul",
    "MatMulInteger",
    "QLinearMatMul",
    "FusedMatMul",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "MatMulNBits",
}
GEMM = {"Gemm", "QGemm"}  # the same of matrices; A may be transposed
CONV = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}  # which of the inputs are the weights [N, K / groups, ...]


def count(contender: Contender, shapes: Iterable[Shape]) -> dict[Shape, int]:
    """{(rows, tokens): FLOP of a call}; empty for contenders whose products cannot be seen."""
    if contender.folder is None or contender.kind not in ("bundle", "reference"):
        return {}
    bundle = read_description(Path(contender.folder))
    count_row = RUNTIMES[bundle.runtime].count
    if count_row is None or TASKS[bundle.task].writes or bundle.first is not None:
        return {}  # what a cascade multiplies depends on the row
    shapes, file = list(shapes), Path(contender.folder, bundle.model)
    seen = {tokens: min(tokens, bundle.max_length) for _, tokens in shapes}  # a longer text is cut
    of_row = {tokens: named(count_row)(file, bundle.inputs, cut) for tokens, cut in seen.items()}
    return {(rows, tokens): rows * of_row[tokens] for rows, tokens in shapes}


def of_graph(file: Path, inputs: Sequence[str], tokens: int) -> int:
    """FLOP of one row of `tokens` tokens through an ONNX graph, from the shapes that its products have in a call."""
    import onnx
    import onnxruntime

    model = onnx.load(str(file))
    products = [node for node in model.graph.node if node.op_type in BY_LAST | GEMM | CONV.keys()]
    known = {each.name: tuple(each.dims) for each in model.graph.initializer}
    wanted = {name for node in products for name in (*node.input[:4], node.output[0]) if name and name not in known}
    given = {each.name for each in (*model.graph.output, *model.graph.input)}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(wanted - given))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = _feed(inputs, tokens)
    names = [each.name for each in session.get_outputs()]
    made: Any = session.run(names, feed)
    known |= {name: array.shape for name, array in zip(names, made, strict=True)}
    known |= {name: array.shape for name, array in feed.items()}
    return sum(2 * math.prod(known[node.output[0]]) * _depth(node, known) for node in products)


def of_openvino(file: Path, inputs: Sequence[str], tokens: int) -> int:
    """The same of an OpenVINO model, whose shapes follow from those of its inputs."""
    from serving.runtimes.openvino import import_openvino

    model = import_openvino().Core().read_model(file)
    model.reshape({name: [1, tokens] for name in inputs})
    flop = 0
    for node in model.get_ops():
        kind = node.get_type_name()
        if kind == "MatMul":
            depth = node.input(0).get_shape()[-2 if node.get_attributes()["transpose_a"] else -1]
        elif kind == "Convolution":  # weights [N, K, ...]
            depth = math.prod(node.input(1).get_shape()[1:])
        elif kind == "GroupConvolution":  # [groups, N, K, ...]
            depth = math.prod(node.input(1).get_shape()[2:])
        else:
            continue
        flop += 2 * math.prod(node.output(0).get_shape()) * depth
    return flop


def of_model(file: Path, inputs: Sequence[str], tokens: int) -> int:
    """The same of a reference bundle by its weights, as torch counts it."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from jobs.models import encoder

    model = encoder.load(file.parent)
    feed = {name: torch.from_numpy(array) for name, array in _feed(inputs, tokens).items()}
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(**feed)  # the counter does not know the fused attention of CPUs
    return int(counter.get_total_flops())


def _feed(inputs: Sequence[str], tokens: int) -> dict[str, Any]:
    import numpy as np

    return {name: (np.zeros if name == "token_type_ids" else np.ones)((1, tokens), dtype=np.int64) for name in inputs}


def _depth(node: Any, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Multiply-adds for one number of the output."""
    if node.op_type in CONV:
        return math.prod(shapes[node.input[CONV[node.op_type]]][1:])
    transposed = node.op_type in GEMM and any(each.name == "transA" and each.i for each in node.attribute)
    return shapes[node.input[0]][0 if transposed else -1]
