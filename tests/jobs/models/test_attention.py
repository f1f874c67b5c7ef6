from __future__ import annotations

import copy

import pytest
import torch

from configs.schema.engine import EngineSpec, Precision
from jobs.models.attention import choose_attention
from tests.tiny.models import batch, encoder_classifier


@pytest.mark.parametrize(("precision", "chosen"), [("bf16_autocast", "eager"), ("bf16", "eager"), ("fp32", "sdpa")])
def test_attention_is_not_fused_where_its_gradient_is_slow(precision: Precision, chosen: str):
    model = encoder_classifier()
    choose_attention(model, EngineSpec(precision=precision))
    assert model.encoder.config._attn_implementation == chosen
    assert "attn" not in model.encoder.config.to_json_string()


def test_either_attention_gives_the_same_answers_and_gradients():
    fused, given = encoder_classifier().eval(), batch(3, 12)
    given["attention_mask"][1, 5:] = 0
    plain = copy.deepcopy(fused)
    choose_attention(plain, EngineSpec(precision="bf16_autocast"))
    for model in (fused, plain):
        model(**given).square().sum().backward()
    torch.testing.assert_close(plain(**given), fused(**given))
    gradients = [{name: each.grad for name, each in model.named_parameters()} for model in (plain, fused)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
