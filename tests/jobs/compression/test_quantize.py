from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from jobs.compression.export import export_onnx
from jobs.compression.quantize import quantize
from jobs.compression.spec import QuantizeSpec
from tests.tiny_models import VOCABULARY, batch, encoder_classifier

INPUTS = ("input_ids", "attention_mask")


class Pair(NamedTuple):
    """The float file and what became of it."""

    whole: Path
    small: Path


@pytest.fixture(scope="module", params=[True, False], ids=["per channel", "per matrix"])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("quantize")
    pair = Pair(folder / "0.onnx", folder / "1.onnx")
    export_onnx(encoder_classifier(layers=3), INPUTS, pair.whole)
    before = pair.whole.read_bytes()
    quantize(pair.whole, QuantizeSpec(step="quantize", per_channel=request.param), pair.small)
    assert pair.whole.read_bytes() == before
    return pair


def logits(file: Path, rows: int, tokens: int) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    feed = {name: tensor.numpy() for name, tensor in batch(rows, tokens).items()}
    return np.asarray(session.run(["logits"], feed)[0])


def test_the_int8_file_is_less_than_half_as_large(files: Pair):
    assert files.small.stat().st_size < files.whole.stat().st_size / 2


def test_the_int8_file_answers_nearly_like_the_float_file(files: Pair):
    whole_BC, small_BC = (logits(file, 400, 16) for file in files)
    spread = whole_BC.std()
    assert np.abs(small_BC - whole_BC).mean() < 0.05 * spread
    assert (small_BC.argmax(1) == whole_BC.argmax(1)).mean() >= 0.95
    assert not np.array_equal(small_BC, whole_BC)


def test_the_int8_file_takes_any_batch_and_length(files: Pair):
    for rows, tokens in ((1, 2), (3, 17), (16, 40)):
        assert logits(files.small, rows, tokens).shape == logits(files.whole, rows, tokens).shape


def test_weights_of_products_and_embeddings_are_int8_in_the_graph(files: Pair):
    graph = onnx.load(files.small).graph
    stored = {each.name: each for each in graph.initializer}
    kinds = [node.op_type for node in graph.node]
    weighted = [node for node in graph.node if node.op_type in ("MatMul", "Gemm") and set(node.input) & stored.keys()]
    assert not weighted
    assert kinds.count("MatMulInteger") >= 3 * 6
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            assert stored[node.input[1]].data_type == TensorProto.INT8
    words = [each for each in graph.initializer if list(each.dims) == [VOCABULARY, 32]]
    assert [each.data_type for each in words] == [TensorProto.INT8]
    large = [each for each in graph.initializer if each.data_type == TensorProto.FLOAT and np.prod(each.dims) > 64]
    assert not large


def test_a_scale_per_channel_or_one_per_matrix(files: Pair, request: pytest.FixtureRequest):
    graph = onnx.load(files.small).graph
    scales = [
        numpy_helper.to_array(each).size
        for each in graph.initializer
        if each.name.endswith("_scale") and not each.name.startswith("encoder.embeddings")
    ]
    per_channel = "per channel" in request.node.name
    assert (max(scales) > 1) is per_channel


def test_quantizing_leaves_logging_as_it_was(files: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    before = logging.root.level
    quantize(files.whole, QuantizeSpec(step="quantize"), tmp_path / "1.onnx")
    assert logging.root.level == before
    assert not caplog.records
