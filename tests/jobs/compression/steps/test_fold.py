from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from configs.loader import UsageError
from configs.schema.compression import FoldSpec
from configs.schema.models import StudentSpec
from jobs.compression.steps.fold import fold
from jobs.models import encoder
from jobs.models.encoder import EncoderClassifier, GradeHead
from jobs.models.sharing import share_layers
from jobs.models.student import encoder_student
from tests.tiny.models import batch, encoder_classifier
from tests.tiny.workplace import Alone


def folded(model: EncoderClassifier) -> tuple[EncoderClassifier, list[str]]:
    """And the norms that were folded."""
    place = Alone()
    made = fold(model, FoldSpec(step="fold", name="norms"), place)
    return made, place.facts["norms"]["norms"]


def conv() -> EncoderClassifier:
    """Its norms have seen something."""
    model = encoder_student(encoder_classifier(), StudentSpec(kind="conv", layers=2, hidden=16)).train()
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm1d):
                layer.weight.normal_()
                layer.bias.normal_()
        model(**batch(64, 12))
    return model.eval()


def graded() -> EncoderClassifier:
    model = encoder_classifier()
    model.head = GradeHead(32, [1, 2, 3, 4, 5])
    return model


def logits(model: EncoderClassifier) -> torch.Tensor:
    with torch.inference_mode():
        return model(**batch(9, 14))


MODELS = {
    "conv": (conv, ["layers.0.norm", "layers.1.norm"]),
    "bert": (encoder_classifier, ["encoder.layer.1.output.LayerNorm"]),
    "bert with grades": (graded, ["encoder.layer.1.output.LayerNorm"]),
    "bert, first token": (lambda: encoder_classifier(pooling="cls"), ["encoder.layer.1.output.LayerNorm"]),
    "distilbert": (lambda: encoder_classifier("distilbert"), ["transformer.layer.1.output_layer_norm"]),
    "modernbert": (
        lambda: encoder_classifier("modernbert"),
        ["layers.0.mlp_norm", "layers.1.attn_norm", "layers.1.mlp_norm", "final_norm"],
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_folded_model_answers_the_same_and_reloads(name: str, tmp_path: Path):
    make, norms = MODELS[name]
    model = make()
    before, weights = logits(model), {key: each.clone() for key, each in model.state_dict().items()}
    made, found = folded(model)
    assert found == norms
    for norm in found:
        left: Any = made.encoder.get_submodule(norm)
        assert isinstance(left, nn.Identity) or torch.equal(left.weight, torch.ones_like(left.weight))
    torch.testing.assert_close(logits(made), before, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(each, weights[key]) for key, each in model.state_dict().items())
    encoder.save(made, tmp_path)
    assert torch.equal(logits(encoder.load(tmp_path)), logits(made))


def test_a_folded_convolution_has_a_bias_in_the_place_of_four_vectors():
    model = conv()
    made, _ = folded(model)
    count = sum(each.numel() for each in model.state_dict().values())
    assert sum(each.numel() for each in made.state_dict().values()) == count - 2 * (4 * 16 + 1) + 2 * 16


def test_a_shift_stays_where_the_next_layer_adds_nothing():
    model: Any = encoder_classifier("modernbert")
    model.encoder.final_norm.bias = nn.Parameter(torch.ones(32))
    model.encoder.layers[1].mlp_norm.bias = nn.Parameter(torch.ones(32))
    made, found = folded(model)
    assert found == ["layers.0.mlp_norm", "layers.1.attn_norm", "final_norm"]
    torch.testing.assert_close(logits(made), logits(model), atol=1e-5, rtol=1e-5)


def test_the_last_norm_of_shared_layers_is_also_the_first_and_stays():
    model = encoder_classifier()
    share_layers(model.encoder)
    made, found = folded(model)
    assert found == []
    assert torch.equal(logits(made), logits(model))


def test_a_kind_whose_norms_are_not_known_is_refused():
    model = encoder_classifier()
    config: Any = model.encoder.config
    config.model_type = "deberta"
    with pytest.raises(UsageError, match="the norms of 'deberta' are not known"):
        folded(model)
