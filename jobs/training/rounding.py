"""Rounding to int8 while a model learns, as ONNX Runtime's dynamic quantisation will round it."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from jobs.compression.rewrite import COUNTED
from jobs.models.encoder import EncoderClassifier

LARGEST = 127  # of a symmetric int8 weight
LEVELS = 255  # steps of an uint8 tensor
SMALLEST = torch.finfo(torch.float32).tiny  # of a scale


def learn_rounded(model: nn.Module) -> None:
    """Round, in place, weights and inputs of Linear and Conv1d layers, and what embeddings look up.

    Quantisation-aware training with a straight-through gradient (Jacob et al. 2018, arXiv 1712.05877; Bengio et al.
    2013, arXiv 1308.3432): the stored weights stay float, `zeros.release` gives them back.
    """
    joined = _joined_tables(model)
    for layer in model.modules():
        if isinstance(layer, nn.Embedding):
            layer.register_forward_hook(functools.partial(_looked_up, joined=joined.get(layer)))
        elif isinstance(layer, nn.Linear | nn.Conv1d):
            layer.register_forward_pre_hook(_given)
            parametrize.register_parametrization(layer, "weight", RoundedRows())


class RoundedRows(nn.Module):
    """The weight of a Linear, or of a Conv1d, which is exported as one, in symmetric int8 with a scale for each output.

    A norm that the exporter folds into it multiplies an output's weights and its scale alike, and changes no rounding.
    """

    def forward(self, weight: Tensor) -> Tensor:
        """The nearest weight that int8 can hold."""
        scale_O = _scale(weight.detach().float().abs().flatten(1).amax(1), LARGEST)
        zero_O = torch.zeros_like(scale_O, dtype=torch.int32)
        rounded = torch.fake_quantize_per_channel_affine(weight.float(), scale_O, zero_O, 0, -LARGEST, LARGEST)
        return rounded.to(weight.dtype)


def rounded_like(values: Tensor, tensor: Tensor) -> Tensor:
    """`values` in uint8 with the scale and zero point that hold all of `tensor` and 0: ONNX's DynamicQuantizeLinear."""
    least, most = tensor.detach().float().aminmax()
    least, most = least.clamp(max=0), most.clamp(min=0)
    scale = _scale(most - least, LEVELS)
    zero = (-least / scale).round().to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(values.float(), scale, zero, 0, LEVELS).to(values.dtype)


def _scale(size: Tensor, levels: int) -> Tensor:
    """Of a tensor of zeros 1."""
    scale = size / levels
    return torch.where(scale < SMALLEST, torch.ones_like(scale), scale)


def _given(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    first, *rest = inputs
    return (rounded_like(first, first), *rest)


def _looked_up(layer: Any, inputs: Any, output: Tensor, joined: tuple[Any, int] | None) -> Tensor:
    """The rows as the rounded table holds them, without rounding the whole table."""
    if joined is None:
        return rounded_like(output, layer.weight)
    types, sign = joined
    first_H = sign * types.weight[0]
    return rounded_like(output + first_H, layer.weight + first_H) - first_H


def _joined_tables(model: nn.Module) -> dict[Any, tuple[Any, int]]:
    """Tables that are exported with the type of a first text added to them or taken from them, see `attention`."""
    tables: dict[Any, tuple[Any, int]] = {}
    for module in model.modules():
        if isinstance(module, EncoderClassifier) and module.encoder.config.model_type in COUNTED:
            embeddings: Any = module.encoder.embeddings
            types = embeddings.token_type_embeddings
            tables |= {embeddings.position_embeddings: (types, 1), types: (types, -1)}
    return tables
