"""Encoders rewritten for a runtime: the same function in fewer and larger operations."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from jobs.models.encoder import EncoderClassifier
from jobs.models.layers import layers_of

LIKE_BERT = ("bert", "roberta", "xlm-roberta", "electra")


def for_export(model: EncoderClassifier) -> nn.Module:
    """`model` with the projections to queries, keys and values merged and its mask made once; others as they are.

    One quantised product of [H, 3H] instead of three, and attention in plain products instead of what the exporter
    makes of PyTorch's fused one.
    """
    if model.encoder.config.model_type not in LIKE_BERT:
        return model
    return _Plain(copy.deepcopy(model))


class _Plain(nn.Module):
    def __init__(self, model: EncoderClassifier) -> None:
        super().__init__()
        self.model = model
        for layer in dict.fromkeys(layers_of(model.encoder)):  # one may stand in several places
            layer.attention.self = _MergedAttention(layer.attention.self)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        hidden_BL = torch.finfo(torch.float32).min * (1.0 - attention_mask.to(torch.float32))
        mask_B11L = hidden_BL[:, None, None, :]  # transformers hands a mask of four axes to the layers as it is
        return self.model.answer(self.model.tokens(input_ids, mask_B11L, token_type_ids), attention_mask)


class _MergedAttention(nn.Module):
    """softmax(Q K^T / sqrt(d) + mask) V with one projection; the scale lies in the weights of the queries."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads, self.size = attention.num_attention_heads, attention.attention_head_size
        parts = (attention.query, attention.key, attention.value)
        self.width = parts[0].out_features
        self.projection = nn.Linear(parts[0].in_features, 3 * self.width)
        with torch.no_grad():
            self.projection.weight.copy_(torch.cat([part.weight for part in parts]))
            self.projection.bias.copy_(torch.cat([part.bias for part in parts]))
            self.projection.weight[: self.width] *= self.size**-0.5
            self.projection.bias[: self.width] *= self.size**-0.5

    def forward(self, hidden_states: Tensor, attention_mask: Tensor, *rest: Any, **named: Any) -> tuple[Tensor, None]:
        """As the attention it replaces; `rest` and `named` are for caches, which an encoder has none of."""
        rows, length, _ = hidden_states.shape
        merged = self.projection(hidden_states).view(rows, length, 3 * self.heads, self.size).transpose(1, 2)
        query, key, value = merged.split(self.heads, dim=1)  # [B, heads, L, d]
        weights = torch.softmax(query @ key.transpose(-1, -2) + attention_mask, dim=-1)
        return (weights @ value).transpose(1, 2).reshape(rows, length, self.width), None
