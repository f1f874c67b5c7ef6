from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from configs.loader import UsageError
from configs.schema.compression import ShrinkSpec
from jobs.compression.export.onnx import export_onnx
from jobs.compression.importance import Importance
from jobs.compression.layer_sizes import Kept
from jobs.compression.layer_times import LayerTimes
from jobs.compression.step_context import StepContext
from jobs.compression.steps.shrink import of_parts, shrink
from jobs.models import encoder
from jobs.models.encoder import EncoderClassifier
from jobs.models.layers import KNOWN, LayerSize, layers_of, sizes_of
from jobs.models.narrow import PROJECTION, largest
from jobs.models.sharing import share_layers
from tests.tiny.models import CLASSES, batch, encoder_classifier
from tests.tiny.workplace import Alone

KINDS = ["bert", "roberta", "electra", "distilbert"]  # 32 wide, 2 heads of 16, 64 units
WHOLE = LayerSize(2, 16, 64)
PRUNED: dict[str, tuple[Kept, int]] = {
    "heads": ({0: WHOLE._replace(heads=1), 1: WHOLE, 2: WHOLE._replace(heads=1)}, 32),
    "units": ({0: WHOLE._replace(feed_forward=24), 1: WHOLE._replace(feed_forward=7), 2: WHOLE}, 32),
    "hidden": ({0: WHOLE, 1: WHOLE, 2: WHOLE}, 21),
    "layers": ({0: WHOLE, 2: WHOLE}, 32),
    "all": ({0: LayerSize(1, 16, 40), 2: LayerSize(2, 16, 8)}, 24),
}


def chances(seed: int = 0) -> Importance:
    """As if every part of three layers mattered by chance."""
    chance = torch.Generator().manual_seed(seed)
    heads, units = ([torch.rand(count, generator=chance) for _ in range(3)] for count in (2, 64))
    return Importance(heads, units, torch.rand(32, generator=chance))


def masked(model: EncoderClassifier, kept: Kept, found: Importance, dims_H: torch.Tensor) -> EncoderClassifier:
    """A copy of full width in which what is not kept is multiplied by zero, and norms are over what is kept."""
    dense = copy.deepcopy(model)
    parts, layers = KNOWN[dense.encoder.config.model_type], layers_of(dense.encoder)
    for number, size in kept.items():
        heads, units = torch.zeros(2), torch.zeros(64)
        heads[largest(found.heads[number], size.heads)] = 1
        units[largest(found.units[number], size.feed_forward)] = 1
        for name, mask in ((parts.attended, heads.repeat_interleave(16)), (parts.narrowed, units)):
            read = layers[number].get_submodule(name)
            read.register_forward_pre_hook(lambda module, inputs, mask=mask: (inputs[0] * mask,))
    for number in reversed(range(3)):
        if number not in kept:
            del layers[number]

    def norm(module: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        made = torch.zeros_like(output)
        weight, bias = module.weight[dims_H], module.bias[dims_H]
        made[..., dims_H] = F.layer_norm(inputs[0][..., dims_H], (len(dims_H),), weight, bias, module.eps)
        return made

    dimensions = torch.zeros(32)
    dimensions[dims_H] = 1
    for name, module in dense.named_modules():
        if name == PROJECTION:
            module.register_forward_hook(lambda module, inputs, output: output * dimensions)
        elif isinstance(module, nn.LayerNorm) and module.normalized_shape == (32,):
            module.register_forward_hook(norm)
    return dense


@pytest.mark.parametrize("pruned", PRUNED)
@pytest.mark.parametrize("kind", KINDS)
def test_a_smaller_model_is_the_dense_one_under_masks(kind: str, pruned: str):
    (kept, hidden), found = PRUNED[pruned], chances()
    model, given, dims_H = encoder_classifier(kind, layers=3), batch(3, 12), largest(found.dims, hidden)
    made = of_parts(model, kept, found, dims_H)
    assert sizes_of(made.encoder.config) == list(kept.values())
    assert sum(each.numel() for each in made.parameters()) < sum(each.numel() for each in model.parameters())
    with torch.inference_mode():
        expected = masked(model, kept, found, dims_H)(**given)
        torch.testing.assert_close(made(**given), expected, rtol=1e-5, atol=1e-5)
        assert (expected - model(**given)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_smaller_model_is_loaded_as_it_was_saved(kind: str, tmp_path: Path):
    kept, hidden = PRUNED["all"]
    made = of_parts(encoder_classifier(kind, layers=3), kept, chances(), largest(chances().dims, hidden))
    encoder.save(made, tmp_path)
    loaded, given = encoder.load(tmp_path), batch(3, 12)
    with torch.inference_mode():
        assert torch.equal(loaded(**given), made(**given))


@pytest.mark.slow
def test_a_smaller_model_is_exported(tmp_path: Path):
    kept, hidden = PRUNED["all"]
    made = of_parts(encoder_classifier(layers=3), kept, chances(), largest(chances().dims, hidden))
    export_onnx(made, ["input_ids", "attention_mask"], tmp_path / "model.onnx")
    session, given = onnxruntime.InferenceSession(tmp_path / "model.onnx"), batch(5, 20)
    answer = session.run(["logits"], {name: tensor.numpy() for name, tensor in given.items()})[0]
    with torch.inference_mode():
        torch.testing.assert_close(torch.from_numpy(answer), made(**given), rtol=1e-4, atol=1e-4)


@pytest.fixture
def workplace(tmp_path: Path) -> StepContext:
    return Alone(folder=tmp_path)


def by_magnitude(**fields: Any) -> ShrinkSpec:
    return ShrinkSpec.model_validate({"step": "shrink", "importance": "magnitude"} | fields)


def test_the_step_keeps_what_it_is_told_and_says_so(workplace: StepContext):
    model = encoder_classifier(layers=3)
    before = copy.deepcopy(model.state_dict())
    made = shrink(model, by_magnitude(heads=1, feed_forward=0.25, hidden=20, layers=2, name="half"), workplace)
    assert sizes_of(made.encoder.config) == [LayerSize(1, 16, 16)] * 2
    assert made(**batch(3, 12)).shape == (3, CLASSES)
    facts = json.loads(json.dumps(workplace.facts["half"]))
    assert [{**each, "layer": None} for each in facts["layers"]] == [
        {"layer": None, "heads": 1, "head_size": 16, "feed_forward": 16}
    ] * 2
    assert facts["hidden"] == 20
    assert 0 < facts["importance_lost"] < 1 and 0 < facts["hidden_importance_lost"] < 1
    assert facts["parameters"]["after"] == sum(each.numel() for each in made.parameters())
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_a_step_may_follow_another(workplace: StepContext):
    found = chances()
    uneven = of_parts(encoder_classifier(layers=3), PRUNED["all"][0], found, largest(found.dims, 24))
    made = shrink(uneven, by_magnitude(heads=1, feed_forward=16), workplace)
    assert sizes_of(made.encoder.config) == [LayerSize(1, 16, 16), LayerSize(1, 16, 8)]
    assert made(**batch(3, 12)).shape == (3, CLASSES)


def test_sizes_are_chosen_under_a_limit_on_the_time(workplace: StepContext, monkeypatch: pytest.MonkeyPatch):
    times = LayerTimes(1.0, {1: 2.0, 2: 3.0}, {16: 1.0, 32: 2.0, 64: 4.0})
    monkeypatch.setattr("jobs.compression.layer_times.measure", lambda model, folder: times)
    model = encoder_classifier(layers=3)
    for fields, limit in (({"speedup": 2.0}, 11.0), ({"max_ms": 9.0}, 9.0)):
        made = shrink(model, by_magnitude(**fields), workplace)
        took = times.model(sizes_of(made.encoder.config))
        assert limit - 2 < took <= limit
        facts = json.loads(json.dumps(workplace.facts["shrink"]))
        assert facts["ms"] == {"before": 22.0, "after": took}
        assert facts["times"]["heads"] == {"1": 2.0, "2": 3.0}
    with pytest.raises(
        UsageError, match=r"compression.shrink.speedup: one layer .* takes 4 ms, .*speedup=5.45 or less"
    ):
        shrink(model, by_magnitude(speedup=6), workplace)
    with pytest.raises(UsageError, match=r"compression.shrink.max_ms: .* give max_ms=4.04 or more"):
        shrink(model, by_magnitude(max_ms=3.9), workplace)


def test_a_model_whose_parts_are_not_known_is_refused(workplace: StepContext):
    with pytest.raises(UsageError, match=r"compression.shrink: no heads and units known for 'modernbert'.*; for bert,"):
        shrink(encoder_classifier("modernbert"), by_magnitude(heads=1), workplace)


def test_a_model_whose_layers_are_one_is_refused(workplace: StepContext):
    model = encoder_classifier("bert")
    share_layers(model.encoder)
    with pytest.raises(UsageError, match=r"compression.shrink: the student's layers share their weights"):
        shrink(model, by_magnitude(heads=1), workplace)


@pytest.mark.parametrize("asked", [{"heads": 3}, {"feed_forward": 65}, {"hidden": 33}, {"layers": 4}], ids=str)
def test_more_than_the_model_has_is_refused(asked: dict[str, int], workplace: StepContext):
    name, count = next(iter(asked.items()))
    with pytest.raises(UsageError, match=rf"compression.shrink.{name}: {count}: the model has {count - 1}"):
        shrink(encoder_classifier(layers=3), by_magnitude(**asked), workplace)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "nothing to leave out: give heads"),
        ({"max_ms": 2, "speedup": 2}, "two limits on one time; give one"),
        ({"heads": 2, "speedup": 2}, "heads=2: sizes are chosen under speedup; leave it out"),
        ({"heads": 0}, "0: give 1 or more, or a share"),
        ({"heads": 3.0}, "3.0: a share is above 0 and at most 1.0, a number is whole"),
        ({"hidden": -0.5}, "a share is above 0"),
        ({"speedup": 1}, "greater than 1"),
        ({"heads": 1, "loss": "labels"}, "loss='labels': importance 'magnitude' looks at no rows"),
        ({"heads": 1, "calibration_rows": 9}, "calibration_rows=9: importance 'magnitude' looks at no rows"),
    ],
    ids=str,
)
def test_a_step_that_cannot_work_is_refused(fields: dict[str, Any], said: str):
    with pytest.raises(ValidationError, match=said):
        by_magnitude(**fields)
