from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper

from configs.schema.compression import QuantizeSpec
from jobs.compression import int8
from jobs.compression.export.onnx import export_onnx
from jobs.training.quantize_aware import calibrate, learn_rounded
from tests.tiny.graph import in_8_bits
from tests.tiny.models import VOCABULARY, batch, encoder_classifier

LAYERS = 2
INPUTS = ("input_ids", "attention_mask")
SEEN = [batch(50, tokens, seed=tokens) for tokens in (8, 16)]  # rows that fix the ranges
FEEDS = [{name: tensor.numpy() for name, tensor in each.items()} for each in SEEN]


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
    in_8_bits(whole, pair.small, FEEDS, per_channel=request.param)
    assert whole.read_bytes() == before
    return pair


def logits(file: Path, rows: int, tokens: int) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], feed(rows, tokens))[0])


def feed(rows: int, tokens: int, seed: int = 0) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in batch(rows, tokens, seed).items()}


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}


def loaded(file: Path, folder: Path) -> onnx.GraphProto:
    """What the runtime makes of a file before it runs it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "loaded.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "loaded.onnx").graph


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
    if not files.per_channel:
        return  # a recipe that learns rounded needs scales by channel
    given, model = batch(50, 16), encoder_classifier(layers=LAYERS)
    with torch.inference_mode():
        whole_BC = model(**given).numpy()
        learn_rounded(model)
        calibrate(model, SEEN)
        rounded_BC = model(**given).numpy()
    small_BC = logits(files.small, 50, 16)
    assert np.abs(rounded_BC - small_BC).mean() < 0.1 * np.abs(whole_BC - small_BC).mean()


def test_the_int8_file_takes_any_batch_and_length(files: Pair):
    for rows, tokens in ((1, 2), (3, 17), (16, 40)):
        assert logits(files.small, rows, tokens).shape == logits(files.whole, rows, tokens).shape


def test_weights_of_products_and_embeddings_are_stored_in_8_bits(files: Pair):
    graph = onnx.load(files.small).graph
    stored = {each.name: each for each in graph.initializer}
    weighted = [node for node in graph.node if node.op_type in ("MatMul", "Gemm") and node.input[1] in stored]
    assert not weighted
    matrices = [each for name, each in stored.items() if name.endswith("_quantized") and len(each.dims) == 2]
    kinds = Counter(each.data_type for each in matrices)
    assert kinds == {TensorProto.INT8: 4 * LAYERS + 1, TensorProto.UINT8: 2}  # the head; words and positions
    words = [each for each in graph.initializer if list(each.dims) == [VOCABULARY, 32]]
    assert [each.data_type for each in words] == [TensorProto.UINT8]
    large = [each for each in graph.initializer if each.data_type == TensorProto.FLOAT and np.prod(each.dims) > 96]
    assert not large


def test_a_matrix_has_a_scale_per_channel_or_one(files: Pair):
    graph = onnx.load(files.small).graph
    sizes = {each.name: int(np.prod(each.dims)) for each in graph.initializer}
    matrices = [each for each in graph.initializer if each.data_type == TensorProto.INT8 and len(each.dims) == 2]
    scales = {sizes[each.name.removesuffix("_quantized") + "_scale"] for each in matrices}
    assert scales == ({5, 32, 64, 96} if files.per_channel else {1})


def test_no_weight_is_further_from_its_own_than_half_a_step_of_its_scale(files: Pair):
    """Symmetric: 127 steps between 0 and the largest weight of a channel, or of the matrix."""
    whole = int8.read(files.whole)
    weights, stored = constants(whole), constants(onnx.load(files.small))
    products = [node for node in whole.graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    assert len(products) == 4 * LAYERS
    for node in products:
        weight_IO = weights[node.input[1]]
        scale = stored[f"{node.input[1]}_scale"]
        largest = np.abs(weight_IO).max(axis=0 if files.per_channel else None)
        np.testing.assert_allclose(scale, largest / 127, rtol=1e-5)
        back_IO = stored[f"{node.input[1]}_quantized"].astype(np.float32) * scale
        assert (np.abs(back_IO - weight_IO) <= scale / 2 * (1 + 1e-5)).all()


def test_a_row_of_a_table_has_a_scale_of_its_own(files: Pair):
    weights, stored = constants(int8.read(files.whole)), constants(onnx.load(files.small))
    (name,) = (name for name, each in weights.items() if each.shape == (VOCABULARY, 32))
    scale_V1 = stored[f"{name}_scale"]
    np.testing.assert_allclose(scale_V1, np.abs(weights[name]).max(1, keepdims=True) / 127, rtol=1e-5)
    back_VH = (stored[f"{name}_quantized"].astype(np.float32) - 128) * scale_V1
    assert (np.abs(back_VH - weights[name]) <= scale_V1 / 2 * (1 + 1e-5)).all()


def test_reduced_weights_take_7_bits(whole: Path, tmp_path: Path):
    in_8_bits(whole, tmp_path / "1.onnx", FEEDS, reduce_range=True)
    stored = constants(onnx.load(tmp_path / "1.onnx"))
    products = [each for name, each in stored.items() if name.endswith("_quantized") and each.dtype == np.int8]
    assert max(np.abs(each).max() for each in products) == 64
    spread = logits(whole, 100, 16).std()
    assert np.abs(logits(tmp_path / "1.onnx", 100, 16) - logits(whole, 100, 16)).mean() < 0.1 * spread


@pytest.mark.parametrize("calibration", ["entropy", "percentile"])
def test_ranges_may_leave_out_what_is_rare(whole: Path, tmp_path: Path, calibration: str):
    in_8_bits(whole, tmp_path / "1.onnx", FEEDS, calibration=calibration)
    whole_BC, small_BC = (logits(file, 400, 16) for file in (whole, tmp_path / "1.onnx"))
    assert np.abs(small_BC - whole_BC).mean() < 0.08 * whole_BC.std()
    assert (small_BC.argmax(1) == whole_BC.argmax(1)).mean() >= 0.93


def test_the_runtime_multiplies_in_8_bits_and_adds_in_float(files: Pair, tmp_path: Path):
    graph = loaded(files.small, tmp_path)
    kinds = Counter(node.op_type for node in graph.node)
    products = [node for node in graph.node if node.op_type == "MatMulIntegerToFloat"]
    assert len(products) == 4 * LAYERS + 1  # one for queries, keys and values; the head
    assert all(node.input[6] for node in products)  # the bias is added by the product
    assert kinds["Gelu"] == LAYERS
    assert kinds["MatMul"] + kinds["FusedMatMul"] == 2 * LAYERS + 1  # inside attention, and the mean over tokens
    assert kinds["QuantizeLinear"] == 4 * LAYERS + 1  # one in front of each product; what is added is not rounded
    assert not kinds["SkipLayerNormalization"]  # slower than its parts
    assert not kinds["Identity"]


def test_layers_are_named_after_their_weights(whole: Path):
    names = int8.layers(int8.read(whole))
    assert names[-1] == "head"
    assert "encoder.embeddings.word_embeddings" in names
    assert "encoder.encoder.layer.1.attention.self.projection" in names
    assert len(names) == len(set(names))


def test_only_chosen_layers_are_converted(whole: Path, tmp_path: Path):
    graph = int8.read(whole)
    names, spec = int8.layers(graph), QuantizeSpec(step="quantize")
    ranges = int8.calibrate(graph, FEEDS, spec, tmp_path)
    int8.quantize(graph, ranges, ["head"], spec, tmp_path / "1.onnx")
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "1.onnx").graph.node)
    assert kinds["QuantizeLinear"] == 1
    int8.quantize(graph, ranges, names[:-1], spec, tmp_path / "2.onnx")
    left = int8.layers(int8.read(tmp_path / "2.onnx"))
    assert left == ["head"]


def test_quantizing_leaves_logging_as_it_was(
    whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
):
    before = logging.root.level
    in_8_bits(whole, tmp_path / "1.onnx", FEEDS, calibration="percentile")
    assert logging.root.level == before
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
