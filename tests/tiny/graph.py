"""An ONNX classifier of four layers that is written in milliseconds, one of which 8 bits can be made to ruin."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from configs.schema.compression import QuantizeSpec
from jobs.compression import int8
from tests.tiny.models import CLASSES, VOCABULARY, batch

WIDTH = 16
LAYERS = ["words", "first", "second", "head"]
OUTLIER = 1000.0  # beside weights of at most 1: the others become 0 in 8 bits


def write_graph(file: Path, ruined: str | None = None, seed: int = 0) -> Path:
    """input_ids and attention_mask [B, L] -> logits [B, C]; the float answers do not depend on what is `ruined`.

    The outlier multiplies a feature that is 0 in every text, so that it weighs on the scales alone.
    """
    chance = np.random.default_rng(seed)
    wide = {"words": VOCABULARY, "first": WIDTH, "second": WIDTH, "head": WIDTH}
    weights = {
        name: chance.uniform(-1, 1, (rows, CLASSES if name == "head" else WIDTH)).astype(np.float32)
        for name, rows in wide.items()
    }
    biases = {name: np.zeros(weights[name].shape[1], np.float32) for name in LAYERS[1:]}
    weights["words"][:, 0] = 0
    for name in ("first", "second"):
        weights[name][:, 0] = 0  # tanh(0) = 0: the feature stays 0 on the way
    if ruined is not None:
        weights[ruined][0, :] = OUTLIER
        if ruined != "head":
            weights[ruined][0, 0] = 0
    constants = {f"{name}.weight" if name == "words" else f"{name}_T": each for name, each in weights.items()}
    constants |= {f"{name}.bias": each for name, each in biases.items()}
    constants |= {"last": np.array([-1], np.int64), "over": np.array([1], np.int64)}
    nodes = [
        ("Gather", ["words.weight", "input_ids"], "x"),
        ("MatMul", ["x", "first_T"], "x1"),
        ("Add", ["x1", "first.bias"], "x2"),
        ("Tanh", ["x2"], "h"),
        ("MatMul", ["h", "second_T"], "h1"),
        ("Add", ["h1", "second.bias"], "h2"),
        ("Tanh", ["h2"], "h3"),
        ("Add", ["h3", "h"], "hidden"),  # a residual, as in an encoder
        ("Cast", ["attention_mask"], "mask"),
        ("Unsqueeze", ["mask", "last"], "mask1"),
        ("Mul", ["hidden", "mask1"], "masked"),
        ("ReduceSum", ["masked", "over"], "sum"),
        ("ReduceSum", ["mask1", "over"], "count"),
        ("Div", ["sum", "count"], "pooled"),
        ("MatMul", ["pooled", "head_T"], "scores"),
        ("Add", ["scores", "head.bias"], "logits"),
    ]
    further = {"Cast": {"to": TensorProto.FLOAT}, "ReduceSum": {"keepdims": 0}}
    graph = helper.make_graph(
        [helper.make_node(kind, given, [made], made, **further.get(kind, {})) for kind, given, made in nodes],
        "tiny",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "L"])
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", CLASSES])],
        [numpy_helper.from_array(each, name) for name, each in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(file))
    return file


def in_8_bits(file: Path, made: Path, feeds: Iterable[Mapping[str, np.ndarray]] | None = None, **fields: Any) -> None:
    """Write `made`, all layers of `file` in 8 bits, without a guard; ranges are those of `feeds`, or of random rows."""
    graph, spec = int8.read(file), QuantizeSpec.model_validate({"step": "quantize", **fields})
    if feeds is None:
        feeds = ({name: each.numpy() for name, each in batch(50, length, length).items()} for length in (8, 16))
    with tempfile.TemporaryDirectory() as folder:
        ranges = int8.calibrate(graph, map(dict, feeds), spec, Path(folder))
    int8.quantize(graph, ranges, int8.layers(graph), spec, made)
