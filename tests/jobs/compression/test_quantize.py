from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper

from jobs.compression.export import export_onnx
from jobs.compression.quantize import quantize
from jobs.compression.spec import QuantizeSpec
from jobs.training.rounding import learn_rounded
from tests.tiny_models import VOCABULARY, batch, encoder_classifier

LAYERS = 2
INPUTS = ("input_ids", "attention_mask")


class Pair(NamedTuple):
    """The float file and what became of it."""

    whole: Path
    small: Path
    per_channel: bool


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float file, made once: the exporter takes seconds for any model."""
    file = tmp_path_factory.mktemp("whole") / "0.onnx"
    export_onnx(encoder_classifier(layers=LAYERS), INPUTS, file)
    return file


@pytest.fixture(scope="module", params=[True, False], ids=["per channel", "per matrix"])
def files(request: pytest.FixtureRequest, whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    pair = Pair(whole, tmp_path_factory.mktemp("quantize") / "1.onnx", request.param)
    before = whole.read_bytes()
    quantize(whole, QuantizeSpec(step="quantize", per_channel=request.param), pair.small)
    assert whole.read_bytes() == before
    return pair


def logits(file: Path, rows: int, tokens: int) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    feed = {name: tensor.numpy() for name, tensor in batch(rows, tokens).items()}
    return np.asarray(session.run(["logits"], feed)[0])


def test_the_weights_take_about_a_quarter_of_the_bytes(files: Pair):
    whole, small = (
        sum(len(numpy_helper.to_array(each).tobytes()) for each in onnx.load(file).graph.initializer)
        for file in (files.whole, files.small)
    )
    assert small < 0.35 * whole
    assert files.small.stat().st_size < files.whole.stat().st_size


def test_the_int8_file_answers_nearly_like_the_float_file(files: Pair):
    whole_BC, small_BC = (logits(file, 400, 16) for file in (files.whole, files.small))
    spread = whole_BC.std()
    assert np.abs(small_BC - whole_BC).mean() < 0.05 * spread
    assert (small_BC.argmax(1) == whole_BC.argmax(1)).mean() >= 0.95
    assert not np.array_equal(small_BC, whole_BC)


def test_learning_rounded_sees_what_the_int8_file_answers(files: Pair):
    """Batch by batch, as scales are taken over what is computed together."""
    if not files.per_channel:
        pytest.skip("a recipe that learns rounded needs scales by channel")
    given, model = batch(50, 16), encoder_classifier(layers=LAYERS)
    with torch.inference_mode():
        whole_BC = model(**given).numpy()
        learn_rounded(model)
        rounded_BC = model(**given).numpy()
    small_BC = logits(files.small, 50, 16)
    assert np.abs(rounded_BC - small_BC).mean() < 0.1 * np.abs(whole_BC - small_BC).mean()


def test_the_int8_file_takes_any_batch_and_length(files: Pair):
    for rows, tokens in ((1, 2), (3, 17), (16, 40)):
        assert logits(files.small, rows, tokens).shape == logits(files.whole, rows, tokens).shape


def test_weights_of_products_and_embeddings_are_stored_in_8_bits(files: Pair):
    graph = onnx.load(files.small).graph
    stored = {each.name: each for each in graph.initializer}
    kinds = [node.op_type for node in graph.node]
    weighted = [node for node in graph.node if node.op_type in ("MatMul", "Gemm") and set(node.input) & stored.keys()]
    assert not weighted
    assert kinds.count("MatMulInteger") == 4 * LAYERS + 1  # one for queries, keys and values; the head
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            assert stored[node.input[1]].data_type == TensorProto.INT8
    words = [each for each in graph.initializer if list(each.dims) == [VOCABULARY, 32]]
    assert [each.data_type for each in words] == [TensorProto.UINT8]
    large = [each for each in graph.initializer if each.data_type == TensorProto.FLOAT and np.prod(each.dims) > 96]
    assert not large


def test_a_matrix_has_a_scale_per_channel_or_one(files: Pair):
    graph = onnx.load(files.small).graph
    sizes = {each.name: int(np.prod(each.dims)) for each in graph.initializer}
    scales = [
        sizes[node.input[1].removesuffix("_quantized") + "_scale"]
        for node in graph.node
        if node.op_type == "MatMulInteger"
    ]
    assert set(scales) == ({5, 32, 64, 96} if files.per_channel else {1})


def test_quantizing_leaves_logging_as_it_was(files: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    before = logging.root.level
    quantize(files.whole, QuantizeSpec(step="quantize"), tmp_path / "1.onnx")
    assert logging.root.level == before
    assert not caplog.records
