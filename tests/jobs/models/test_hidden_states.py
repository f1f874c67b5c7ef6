from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from configs.loader import UsageError
from jobs.models.encoder import EncoderClassifier
from jobs.models.hidden_states import PROJECTIONS, Observed, look_inside, place
from jobs.models.layers import LAYERS
from tests.tiny.models import batch, encoder_classifier

KINDS = ["bert", "roberta", "distilbert"]


def blocks(model: EncoderClassifier) -> nn.ModuleList:
    return model.encoder.get_submodule(LAYERS[model.encoder.config.model_type])  # pyright: ignore[reportReturnType]


def first_layers(model: EncoderClassifier, count: int) -> EncoderClassifier:
    cut = copy.deepcopy(model)
    del blocks(cut)[count:]
    return cut


@pytest.mark.parametrize("kind", KINDS)
def test_token_vectors_after_a_layer_are_those_of_the_model_cut_there(kind: str):
    model, inputs = encoder_classifier(kind, layers=3), batch(4, 9)
    with torch.inference_mode():
        seen = look_inside(model, inputs, [1, 2, -1], None)
        for layer, hidden_BLH in zip((1, 2, 3), seen.hidden, strict=True):
            expected_BLH = first_layers(model, layer).tokens(inputs["input_ids"], inputs["attention_mask"])
            torch.testing.assert_close(hidden_BLH, expected_BLH)
        torch.testing.assert_close(seen.logits_BC, model(**inputs))
    assert seen.relations == []


@pytest.mark.parametrize("kind", KINDS)
def test_relations_are_what_the_attention_of_that_layer_computes(kind: str):
    model, inputs = encoder_classifier(kind, layers=3), batch(4, 9)
    computed: list[Any] = []
    for name in PROJECTIONS[kind]:
        module = blocks(model)[1].get_submodule(name)
        module.register_forward_hook(lambda module, given, out: computed.append(out))
    with torch.inference_mode():
        model(**inputs)
        expected = list(computed)
        seen = look_inside(model, inputs, [], 2)
    assert len(expected) == 3
    for vectors_BLH, expected_BLH in zip(seen.relations, expected, strict=True):
        torch.testing.assert_close(vectors_BLH, expected_BLH)


@pytest.mark.parametrize(("layer", "expected"), [(1, 1), (6, 6), (-1, 6), (-6, 1)])
def test_layers_are_counted_from_1_or_from_the_last(layer: int, expected: int):
    assert place(layer, 6, "hidden_layers") == expected


@pytest.mark.parametrize("layer", [0, 7, -7])
def test_a_layer_that_is_not_there_is_refused(layer: int):
    with pytest.raises(UsageError, match=rf"^distillation\.hidden_layers: {layer}: the teacher has layers 1 to 6"):
        place(layer, 6, "hidden_layers")


def test_relations_of_a_kind_whose_projections_are_not_known_are_refused():
    with pytest.raises(UsageError, match="'modernbert' models are not known"):
        look_inside(encoder_classifier("modernbert"), batch(2, 5), [], 1)


def observed(width: int, layers: int = 2, **asked: Any) -> Observed:
    return Observed(encoder_classifier(layers=3), layers, **({"cosine": True, "relations": True} | asked), width=width)


def test_an_observed_student_of_equal_width_shows_its_own_vectors_at_first():
    model, inputs = observed(width=32), batch(4, 9)
    with torch.inference_mode():
        seen, own = model(**inputs), look_inside(model.student, inputs, [2, 3, 3], 3)
    for shown, expected in zip([*seen.hidden, *seen.relations], [*own.hidden, *own.relations], strict=True):
        torch.testing.assert_close(shown, expected)


def test_an_observed_student_of_another_width_shows_vectors_as_wide_as_the_teachers():
    seen = observed(width=48)(**batch(4, 9))
    assert {each.shape[-1] for each in seen.hidden} == {48}
    assert {each.shape[-1] for each in seen.relations} == {32}  # relations compare at any width


@pytest.mark.parametrize(("layers", "spread"), [(1, [3]), (2, [2, 3]), (3, [1, 2, 3]), (6, [1, 1, 2, 2, 2, 3])])
def test_the_students_layers_are_spread_up_to_the_last(layers: int, spread: list[int]):
    assert observed(32, layers)._layers == spread
