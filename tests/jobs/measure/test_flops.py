from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from configs.schema.tasks import TASKS
from jobs.data.prepared import TOKENIZER, Prepared
from jobs.measure.contenders import Contender
from jobs.measure.flops import count, of_graph, of_openvino
from jobs.models.reference import write_reference
from tests.tiny.bundles import tokenizer, write_tiny_bundle
from tests.tiny.models import CLASSES, encoder_classifier

NEAREST = TASKS["generate"].baselines["nearest"].make

INPUTS = ["input_ids"]


def graph(file: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> Path:
    """`nodes` after x [B, L, 4], the embeddings of the ids."""
    looked_up = helper.make_node("Gather", ["table", "input_ids"], ["x"])
    weights = {"table": np.ones((8, 4), np.float32), **constants}
    made = helper.make_graph(
        [looked_up, *nodes],
        "tiny",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(file))
    return file


def test_products_with_weights_and_of_activations_are_counted(tmp_path: Path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),  # [1, L, 4] x [4, 5]
        helper.make_node("Transpose", ["h"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["h", "t"], ["a"]),  # [1, L, 5] x [1, 5, L]
        helper.make_node("Add", ["a", "one"], ["logits"]),  # no product
    ]
    file = graph(tmp_path / "m.onnx", nodes, {"w": np.ones((4, 5), np.float32), "one": np.ones(1, np.float32)})
    for tokens in (3, 7):
        assert of_graph(file, INPUTS, tokens) == 2 * tokens * 4 * 5 + 2 * tokens * tokens * 5


def test_integers_count_as_floats_do(tmp_path: Path):
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["h"]),
        helper.make_node("Cast", ["h"], ["logits"], to=TensorProto.FLOAT),
    ]
    file = graph(tmp_path / "m.onnx", nodes, {"w": np.ones((4, 5), np.int8)})
    assert of_graph(file, INPUTS, 6) == 2 * 6 * 4 * 5


def test_a_transposed_gemm_and_a_grouped_convolution_are_counted(tmp_path: Path):
    nodes = [
        helper.make_node("Transpose", ["x"], ["c"], perm=[0, 2, 1]),  # [1, 4, L]
        helper.make_node("Conv", ["c", "k"], ["v"], group=2, pads=[1, 1]),  # [6, 2, 3] -> [1, 6, L]
        helper.make_node("Squeeze", ["v", "first"], ["m"]),
        helper.make_node("Gemm", ["m", "w"], ["logits"], transA=1),  # [L, 6] x [6, 5]
    ]
    constants = {"k": np.ones((6, 2, 3), np.float32), "w": np.ones((6, 5), np.float32), "first": np.array([0])}
    assert of_graph(graph(tmp_path / "m.onnx", nodes, constants), INPUTS, 9) == 2 * 9 * 6 * (2 * 3) + 2 * 9 * 6 * 5


def test_a_call_is_as_many_rows_as_the_batch_has(tmp_path: Path):
    write_tiny_bundle(tmp_path / "bundle")
    bundle = Contender(name="winner", kind="bundle", folder=str(tmp_path / "bundle"))
    row = 2 * 8 * 3  # the mean of 8 numbers into 3 classes
    assert count(bundle, [(1, 4), (16, 4), (2, 9)]) == {(1, 4): row, (16, 4): 16 * row, (2, 9): 2 * row}


def test_tokens_that_a_model_does_not_see_are_not_counted(tmp_path: Path):
    tokenizer(False).save(str(tmp_path / TOKENIZER))
    learned = Prepared(
        tmp_path, {"labels": list("vwxyz"[:CLASSES]), "pairs": False, "max_length": 8, "task": "classify"}
    )
    write_reference(tmp_path / "teacher", encoder_classifier(layers=1), learned, "tiny", {}, {})
    teacher = Contender(name="teacher", kind="reference", folder=str(tmp_path / "teacher"))
    found = count(teacher, [(1, 8), (1, 16), (2, 32)])
    assert found == {(1, 8): found[1, 8], (1, 16): found[1, 8], (2, 32): 2 * found[1, 8]}


def test_an_eager_encoder_is_counted_layer_by_layer(tmp_path: Path):
    tokenizer(False).save(str(tmp_path / TOKENIZER))
    learned = Prepared(
        tmp_path, {"labels": list("vwxyz"[:CLASSES]), "pairs": False, "max_length": 16, "task": "classify"}
    )
    write_reference(tmp_path / "teacher", encoder_classifier(layers=2), learned, "tiny", {}, {})
    teacher = Contender(name="teacher", kind="reference", folder=str(tmp_path / "teacher"))
    tokens, width, inner = 7, 32, 64
    layer = 4 * tokens * width * width + 2 * tokens * tokens * width + 2 * tokens * width * inner
    assert count(teacher, [(3, tokens)]) == {(3, tokens): 3 * 2 * (2 * layer + width * CLASSES)}


def test_what_is_no_network_is_not_counted():
    assert count(Contender(name="x", kind="fitted", fit=NEAREST), [(1, 32)]) == {}


def test_openvino_counts_what_the_onnx_graph_it_was_made_of_does(tmp_path: Path):
    openvino = pytest.importorskip("openvino")
    nodes = [
        helper.make_node("Transpose", ["x"], ["c"], perm=[0, 2, 1]),
        helper.make_node("Conv", ["c", "k"], ["v"], group=2, pads=[1, 1]),  # [1, 6, L]
        helper.make_node("Conv", ["v", "p"], ["u"]),  # [1, 3, L]
        helper.make_node("Transpose", ["u"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["t", "u"], ["logits"]),  # [1, L, 3] x [1, 3, L]
    ]
    constants = {"k": np.ones((6, 2, 3), np.float32), "p": np.ones((3, 6, 1), np.float32)}
    file = graph(tmp_path / "m.onnx", nodes, constants)
    openvino.save_model(openvino.convert_model(str(file)), tmp_path / "m.xml")
    expected = 2 * 9 * 6 * (2 * 3) + 2 * 9 * 3 * 6 + 2 * 9 * 9 * 3
    assert of_openvino(tmp_path / "m.xml", INPUTS, 9) == of_graph(file, INPUTS, 9) == expected
