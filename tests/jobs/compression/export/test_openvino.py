from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from cluster.session import JobError
from configs.schema.compression import QuantizeSpec
from jobs.compression.checks.agreement import comparison
from jobs.compression.export.onnx import export as export_onnx
from jobs.compression.export.openvino import export, quantize, write_ir
from jobs.compression.logits import logits, open_file
from jobs.compression.step_context import StepContext
from jobs.data.feeds import Rows
from jobs.models.encoder import EncoderClassifier
from jobs.tasks.classify.judging import metric
from tests.tiny.graph import LAYERS, write_graph
from tests.tiny.models import encoder_classifier
from tests.tiny.workplace import examples, labelled, workplace

pytestmark = pytest.mark.slow  # its converter takes seconds for any model


class Made(NamedTuple):
    """A model, and what was exported of it."""

    place: StepContext
    model: EncoderClassifier
    whole: Path
    small: Path

    @property
    def rows(self) -> Rows:
        return self.place.rows("validation", 200)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Exported and quantised once: both take seconds for any model."""
    model = encoder_classifier(layers=2)
    train, validation = (labelled(examples(200, seed), model) for seed in (0, 1))
    place = workplace(tmp_path_factory.mktemp("openvino"), model, train, validation)
    whole, small = place.folder / "0.xml", place.folder / "1.xml"
    export(model, whole, place)
    quantize(whole, QuantizeSpec(step="quantize", calibration_rows=100), small, place)
    return Made(place, model, whole, small)


def test_the_graph_answers_as_the_model_over_rows_of_any_length(made: Made):
    np.testing.assert_allclose(logits(made.whole, made.rows), logits(made.model, made.rows), atol=1e-4)


def test_parity_is_the_share_of_equal_labels_and_the_largest_difference(made: Made):
    compare = comparison(made.model, made.place)
    assert compare is not None
    found = compare(made.whole, "f32")
    assert (found.rows, found.same) == (200, 1.0)
    assert found.difference is not None and 0 < found.difference < 1e-4
    small = compare(made.small, "f32")
    expected_NC, small_NC = logits(made.model, made.rows), logits(made.small, made.rows)
    assert small.difference == pytest.approx(np.abs(small_NC - expected_NC).max())
    assert small.same == (small_NC.argmax(1) == expected_NC.argmax(1)).mean()


def test_int8_answers_nearly_as_the_float_graph(made: Made):
    whole_NC, small_NC = logits(made.whole, made.rows), logits(made.small, made.rows)
    assert np.abs(small_NC - whole_NC).mean() < 0.1 * whole_NC.std()
    assert (small_NC.argmax(1) == whole_NC.argmax(1)).mean() >= 0.9
    assert not np.array_equal(small_NC, whole_NC)


def test_int8_stores_its_matrices_in_8_bits(made: Made):
    assert made.small.with_suffix(".bin").stat().st_size < 0.45 * made.whole.with_suffix(".bin").stat().st_size


def test_runtimes_share_one_export(made: Made, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jobs.compression.export.onnx.export_onnx", lambda *_: pytest.fail("exported again"))
    export_onnx(made.model, made.place.folder / "0.onnx", made.place)
    found_NC = logits(made.place.folder / "0.onnx", made.rows)
    np.testing.assert_allclose(logits(made.whole, made.rows), found_NC, atol=1e-4)


@pytest.mark.parametrize("guard", [True, False])
def test_the_guard_leaves_the_layer_that_8_bits_ruin_in_float_and_says_so(tmp_path: Path, guard: bool):
    whole, small = tmp_path / "0.xml", tmp_path / "1.xml"
    write_ir(write_graph(tmp_path / "graph.onnx", "second"), whole)
    train, validation = (labelled(examples(200, seed), whole) for seed in (0, 1))
    place = workplace(tmp_path, encoder_classifier(layers=1), train, validation, budget={"min_retention": 0.9})
    quantize(whole, QuantizeSpec(step="quantize", calibration_rows=50, guard=guard), small, place)
    rows = place.rows("validation", 200)
    assert metric(small, rows) >= 0.9 if guard else metric(small, rows) < 0.7
    facts = place.facts["quantize"]
    if not guard:
        assert facts == {"guard": "off"}
        return
    assert (facts["in_float"], facts["layers"]) == (["second"], len(LAYERS))
    assert facts["sensitivity"].keys() == set(LAYERS)


def test_the_precision_is_the_one_that_was_asked_for(made: Made):
    f32_NC = logits(open_file(made.whole, "f32"), made.rows)
    bf16_NC = logits(open_file(made.whole, "bf16"), made.rows)
    np.testing.assert_array_equal(f32_NC, logits(made.whole, made.rows))
    assert np.abs(bf16_NC - f32_NC).max() < 0.3 * f32_NC.std()


def test_int8_needs_rows_to_calibrate_with(made: Made, tmp_path: Path):
    bare = StepContext(
        made.place.recipe.model_copy(update={"output": str(tmp_path)}),
        made.place.student,
        made.place.reference,
        tmp_path,
    )
    with pytest.raises(JobError, match="compression needs the rows"):
        quantize(made.whole, QuantizeSpec(step="quantize"), tmp_path / "1.xml", bare)
