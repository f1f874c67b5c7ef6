"""Encoders rewritten for a runtime: the same function in fewer and larger operations."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jobs.models.conv import ConvEncoder
from jobs.models.encoder import COUNTED, EncoderClassifier
from jobs.models.layers import layers_of

LIKE_BERT = ("bert", "roberta", "xlm-roberta", "electra")


def for_export(model: EncoderClassifier) -> nn.Module:
    """`model` rewritten for runtimes: BERT-like encoders and convolutions; other kinds stay as they are.

    An encoder gets one quantised product of [H, 3H] to queries, keys and values instead of three, a mask made once,
    attention in plain products instead of the exporter's form of PyTorch's fused one, the mean as a product, and no
    look-up of a type where all texts are single. Convolutions become products over the tokens that they see: ONNX
    Runtime (1.31) takes 15 times as long over a convolution in 8 bits.
    """
    if isinstance(model.encoder, ConvEncoder):
        return _of_products(model)
    return _Plain(merged(model)) if model.encoder.config.model_type in LIKE_BERT else model


def merged(model: EncoderClassifier) -> EncoderClassifier:
    """A copy whose BERT-like layers have one projection to queries, keys and values, for a mask of four axes."""
    rewritten = copy.deepcopy(model)
    if rewritten.encoder.config.model_type in LIKE_BERT:
        for layer in dict.fromkeys(layers_of(rewritten.encoder)):  # a layer may stand in several places
            layer.attention.self = _MergedAttention(layer.attention.self)  # pyright: ignore[reportAttributeAccessIssue]
    return rewritten


def _of_products(model: EncoderClassifier) -> EncoderClassifier:
    rewritten = copy.deepcopy(model)
    for block in rewritten.encoder.layers:  # pyright: ignore[reportGeneralTypeIssues] - a ModuleList
        block.conv = _Windows(block.conv)
    return rewritten


class _Windows(nn.Module):
    """A Conv1d over [B, H, L] as one product with the vectors of all the tokens that it sees at once."""

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__()
        (self.kernel,) = conv.kernel_size
        self.product = nn.Linear(self.kernel * conv.in_channels, conv.out_channels, bias=conv.bias is not None)
        with torch.no_grad():
            self.product.weight.copy_(conv.weight.transpose(1, 2).flatten(1))
            if conv.bias is not None:
                self.product.bias.copy_(conv.bias)

    def forward(self, hidden_BHL: Tensor) -> Tensor:
        """As the convolution it replaces."""
        side = self.kernel // 2
        padded_BLH = F.pad(hidden_BHL.transpose(1, 2), (0, 0, side, side))
        length = hidden_BHL.shape[2]
        seen_BLW = torch.cat([padded_BLH[:, place : place + length] for place in range(self.kernel)], dim=-1)
        return self.product(seen_BLW).transpose(1, 2)


class _Plain(nn.Module):
    def __init__(self, model: EncoderClassifier) -> None:
        super().__init__()
        self.model = model
        if model.encoder.config.model_type in COUNTED:
            model.encoder.embeddings = _Embeddings(model.encoder.embeddings)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        masked_BL = torch.finfo(torch.float32).min * (1.0 - attention_mask.to(torch.float32))
        mask_B11L = masked_BL[:, None, None, :]  # transformers hands a mask of four axes to the layers as it is
        hidden_BLH = self.model.tokens(input_ids, mask_B11L, token_type_ids)
        return self.model.head(self._pooled(hidden_BLH, attention_mask.to(hidden_BLH.dtype)))

    def _pooled(self, hidden_BLH: Tensor, mask_BL: Tensor) -> Tensor:
        if self.model.pooling == "cls":
            return hidden_BLH[:, 0]
        share_B1L = (mask_BL / mask_BL.sum(1, keepdim=True)).unsqueeze(1)
        return (share_B1L @ hidden_BLH).squeeze(1)  # the mean as one product


class _Embeddings(nn.Module):
    """LayerNorm(word + position + type); the positions hold the type of a first text, which is then zero itself."""

    def __init__(self, embeddings: Any) -> None:
        super().__init__()
        self.word_embeddings, self.LayerNorm = embeddings.word_embeddings, embeddings.LayerNorm
        self.position_embeddings = embeddings.position_embeddings
        self.token_type_embeddings = embeddings.token_type_embeddings
        self.register_buffer("position_ids", embeddings.position_ids, persistent=False)
        self.position_ids: Tensor
        with torch.no_grad():
            first = self.token_type_embeddings.weight[0].clone()
            self.position_embeddings.weight += first
            self.token_type_embeddings.weight -= first

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None, **rest: Any) -> Tensor:
        """As the embeddings they replace; `rest` is for caches and given vectors, which a classifier does not have."""
        hidden_BLH = self.word_embeddings(input_ids) + self.position_embeddings(
            self.position_ids[:, : input_ids.shape[1]]
        )
        if token_type_ids is not None:
            hidden_BLH = hidden_BLH + self.token_type_embeddings(token_type_ids)
        return self.LayerNorm(hidden_BLH)


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
        """As the attention it replaces; `rest` and `named` are for caches, which an encoder does not have."""
        rows, length, _ = hidden_states.shape
        merged = self.projection(hidden_states).view(rows, length, 3 * self.heads, self.size).transpose(1, 2)
        query, key, value = merged.split(self.heads, dim=1)  # [B, heads, L, d]
        weights = torch.softmax(query @ key.transpose(-1, -2) + attention_mask, dim=-1)
        return (weights @ value).transpose(1, 2).reshape(rows, length, self.width), None
