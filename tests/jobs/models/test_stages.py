"""A model run as the list of its layers answers as it does whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cluster.engine import Layers, Tied
from configs.loader import UsageError
from configs.schema.models import NEW_KINDS
from jobs.models.decoder import Decoder
from jobs.models.stages import decoder_layers, encoder_layers
from tests.tiny.models import batch, decoder, encoder_classifier, packed


def run(layers: Layers, value: object) -> torch.Tensor:
    with torch.inference_mode():
        for layer in layers:
            value = layer.forward(layer.module, value) if isinstance(layer, Tied) else layer(value)
    assert isinstance(value, torch.Tensor)
    return value


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_the_layers_of_an_encoder_answer_as_the_model(kind: str):
    model, given = encoder_classifier(kind), batch(3, 12)
    given["token_type_ids"] = torch.zeros_like(given["input_ids"])
    with torch.inference_mode():
        torch.testing.assert_close(run(encoder_layers(model), tuple(given.values())), model(**given))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", NEW_KINDS)
def test_the_layers_of_a_decoder_answer_as_the_model(kind: str, tied: bool):
    model, given = decoder(kind, tied=tied), packed([[5, 7], [9]])
    with torch.inference_mode():
        torch.testing.assert_close(run(decoder_layers(model), tuple(given.values())), model(**given))


@pytest.mark.parametrize("kind", NEW_KINDS)
def test_every_weight_of_a_decoder_is_in_one_of_its_layers(kind: str):
    model = decoder(kind)
    modules = [layer.module if isinstance(layer, Tied) else layer for layer in decoder_layers(model)]
    assert {id(weight) for weight in nn.ModuleList(modules).parameters()} == set(map(id, model.parameters()))


def test_a_decoder_that_is_not_known_as_layers_is_refused():
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(vocab_size=60, hidden_size=32, num_hidden_layers=1, ffn_dim=32, num_attention_heads=2)
    with pytest.raises(UsageError, match=r"engine.pipeline_stages: no pipeline for 'opt' models; for gpt2, llama"):
        decoder_layers(Decoder(OPTForCausalLM(config)))
