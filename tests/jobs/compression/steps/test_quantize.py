from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.session import JobError
from configs.schema.compression import QuantizeSpec
from configs.schema.recipe import Recipe
from jobs.compression import int8
from jobs.compression.step_context import StepContext
from jobs.compression.steps.quantize import quantize
from jobs.tasks.classify.judging import metric
from tests.tiny.graph import LAYERS, write_graph
from tests.tiny.models import encoder_classifier
from tests.tiny.workplace import examples, labelled, workplace

RUINED = "second"


@pytest.fixture
def place(tmp_path: Path) -> StepContext:
    """Its rows have the labels that the float file gives them."""
    file = write_graph(tmp_path / "0.onnx", RUINED)
    train, validation = (labelled(examples(200, seed), file) for seed in (0, 1))
    return workplace(tmp_path, encoder_classifier(layers=1), train, validation, budget={"min_retention": 0.9})


def made(place: StepContext, **fields: Any) -> float:
    """Quantise; the accuracy of what was made."""
    file = place.folder / "1.onnx"
    quantize(place.folder.parent / "0.onnx", QuantizeSpec.model_validate({"step": "quantize", **fields}), file, place)
    return metric(file, place.rows("validation", 200))


def test_the_guard_leaves_the_layer_that_8_bits_ruin_in_float_and_says_so(place: StepContext):
    assert made(place) >= 0.9
    facts = place.facts["quantize"]
    assert facts["in_float"] == [RUINED]
    assert facts["sensitivity"].keys() == set(LAYERS)
    assert facts["layers"] == len(LAYERS)


def test_without_the_guard_the_layer_is_ruined(place: StepContext):
    assert made(place, guard=False) < 0.7
    assert place.facts["quantize"] == {"guard": "off"}


def test_a_wider_limit_leaves_nothing_in_float(place: StepContext):
    assert made(place, max_loss=1) < 0.7
    assert place.facts["quantize"]["in_float"] == []


def test_without_rows_no_range_is_known(place: StepContext):
    place.recipe = place.recipe.model_copy(update={"output": str(place.folder)})
    with pytest.raises(JobError, match="compression needs the rows that the student learned from"):
        made(place, max_loss=1)


def test_the_layers_of_the_graph_are_named_after_their_weights(tmp_path: Path):
    assert int8.layers(int8.read(write_graph(tmp_path / "0.onnx"))) == LAYERS


def test_calibration_is_refused_where_it_would_be_ignored():
    steps = [{"step": "export"}, {"step": "quantize", "calibration": "entropy"}]
    tree = {"name": "tiny", "compression": steps}
    with pytest.raises(ValueError, match=r"compression\[1\]\.calibration: .*: means nothing to openvino"):
        Recipe.model_validate({**tree, "export": {"runtime": "openvino"}})
    Recipe.model_validate(tree)
