from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from cluster.session import JobError
from configs.schema.compression import ClusterSpec, CodeSpec
from jobs.compression.export.onnx import export_onnx
from jobs.compression.steps.codebook import candidates, code
from jobs.compression.steps.weight_sharing import cluster
from tests.tiny.graph import in_8_bits
from tests.tiny.models import batch, encoder_classifier
from tests.tiny.workplace import Alone

INPUTS = ("input_ids", "attention_mask")
UNPACKING = {"BitShift", "BitwiseAnd"}


def coded(file: Path, made: Path) -> dict[str, Any]:
    """Its facts."""
    place = Alone()
    code(file, CodeSpec(step="code"), made, place)
    return place.facts["code"]


def constant(file: Path, array: np.ndarray) -> Path:
    """A graph that gives back one constant."""
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    graph = helper.make_graph(
        [helper.make_node("Identity", ["weight"], ["logits"])],
        "constant",
        [],
        [helper.make_tensor_value_info("logits", kind, array.shape)],
        [numpy_helper.from_array(array, "weight")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(file))
    return file


def run(file: Path, feed: dict[str, Any] | None = None, optimized: Path | None = None) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    if optimized:
        options.optimized_model_filepath = str(optimized)
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], feed or {})[0])


@pytest.mark.parametrize("kind", [np.float32, np.int8])
@pytest.mark.parametrize("count", [1, 3, 4, 5, 16, 29, 100, 129, 256])
def test_a_coded_tensor_decodes_to_itself_and_takes_the_bits_of_its_indices(tmp_path: Path, count: int, kind: Any):
    chance = np.random.default_rng(count)
    values = chance.permutation(np.arange(-128, 128))[:count] * (1 if kind is np.int8 else np.pi)
    array = chance.choice(values.astype(kind), (131, 97))
    (whole, *_) = candidates(array)
    assert whole.bits == max(1, int(np.ceil(np.log2(count))))
    assert whole.size == whole.words_M1.nbytes + whole.values.nbytes
    if whole.bits > 6 and kind is np.int8:
        return  # four in a word, as before
    file = constant(tmp_path / "0.onnx", array)
    facts = coded(file, tmp_path / "1.onnx")
    assert facts == {"tensors": 1, "bytes_before": array.nbytes, "bytes": whole.size}
    assert (tmp_path / "1.onnx").stat().st_size < whole.size + 2000
    decoded = run(tmp_path / "1.onnx")
    assert decoded.dtype == array.dtype
    np.testing.assert_array_equal(decoded, array)


def test_a_matrix_with_a_scale_for_each_column_is_coded_by_column(tmp_path: Path):
    chance = np.random.default_rng(0)
    levels = chance.normal(size=16)
    index = chance.integers(0, 16, (400, 50))
    array = np.round(127 * levels[index] * chance.uniform(0.2, 1, 50) / np.abs(levels).max()).astype(np.int8)
    assert len(np.unique(array)) > 100
    facts = coded(constant(tmp_path / "0.onnx", array), tmp_path / "1.onnx")
    assert facts["bytes"] == array.size // 2 + 16 * 50
    np.testing.assert_array_equal(run(tmp_path / "1.onnx"), array)


def test_a_file_without_few_values_is_refused(tmp_path: Path):
    array = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    with pytest.raises(JobError, match="put cluster before export"):
        coded(constant(tmp_path / "0.onnx", array), tmp_path / "1.onnx")


@pytest.fixture(scope="module")
def clustered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: the exporter takes seconds for any model."""
    file, place = tmp_path_factory.mktemp("code") / "0.onnx", Alone()
    model = cluster(encoder_classifier(layers=1), ClusterSpec(step="cluster", bits=3, steps=0), place)
    export_onnx(model, INPUTS, file)
    return file


@pytest.mark.parametrize(
    ("int8", "share"), [(None, 0.2), (True, 0.7), (False, 0.6)], ids=["float", "int8 per channel", "int8 per matrix"]
)
def test_a_coded_model_answers_exactly_as_before_and_is_unpacked_once(
    clustered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, int8: bool | None, share: float
):
    monkeypatch.setattr("jobs.compression.steps.codebook.OVERHEAD", 0)
    before = clustered
    if int8 is not None:
        before = tmp_path / "1.onnx"
        in_8_bits(clustered, before, per_channel=int8)
    facts = coded(before, tmp_path / "2.onnx")
    assert facts["bytes"] < share * facts["bytes_before"]
    feed = {name: tensor.numpy() for name, tensor in batch(5, 12).items()}
    answer_BC = run(tmp_path / "2.onnx", feed, tmp_path / "3.onnx")
    np.testing.assert_array_equal(answer_BC, run(before, feed))
    assert UNPACKING & {node.op_type for node in onnx.load(tmp_path / "2.onnx").graph.node}
    assert not UNPACKING & {node.op_type for node in onnx.load(tmp_path / "3.onnx").graph.node}
    onnx.checker.check_model(onnx.load(tmp_path / "2.onnx"))
