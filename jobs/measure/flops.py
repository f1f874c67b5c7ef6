"""How much arithmetic one call is: 2 x the multiply-adds of the matrix products, counted where they happen.

Activations, norms, softmax and lookups are not counted. All products grow with the rows of a batch, so one row says it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.measure.contenders import Contender
from serving.bundle import read_description

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
CONV = {
    "Conv": 1,
    "ConvInteger": 1,
    "QLinearConv": 3,
}  # number of the input that holds the weights [N, K / groups, ...]


def count(contender: Contender, shapes: Iterable[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """{(rows, tokens): FLOP of a call}; empty for contenders whose products cannot be seen."""
    if contender.folder is None or contender.kind not in ("bundle", "reference"):
        return {}
    folder = Path(contender.folder)
    bundle = read_description(folder)
    if bundle.task != "classify" or bundle.runtime not in ("torch", "onnxruntime"):
        return {}
    shapes = list(shapes)
    of_row = {
        tokens: of_model(folder, bundle.inputs, tokens)
        if bundle.runtime == "torch"
        else of_graph(folder / bundle.model, bundle.inputs, tokens)
        for tokens in {tokens for _, tokens in shapes}
    }
    return {(rows, tokens): rows * of_row[tokens] for rows, tokens in shapes}


def of_graph(file: Path, inputs: Sequence[str], tokens: int) -> int:
    """FLOP of one row of `tokens` tokens through an ONNX graph, from the shapes that its products have in a call."""
    import numpy as np
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
    known |= {name: np.shape(array) for name, array in zip(names, session.run(names, feed), strict=True)}
    known |= {name: array.shape for name, array in feed.items()}
    return sum(2 * math.prod(known[node.output[0]]) * _depth(node, known) for node in products)


def of_model(folder: Path, inputs: Sequence[str], tokens: int) -> int:
    """FLOP of one row of `tokens` tokens through the model of a reference bundle, as torch counts them."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from jobs.models import encoder

    model = encoder.load(folder)
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
