"""Rounding to int8 while a model learns, as ONNX Runtime's dynamic quantisation will round it."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from jobs.compression.rewrite import COUNTED
from jobs.models.conv import ConvBlock
from jobs.models.encoder import EncoderClassifier

LARGEST = 127  # of a symmetric int8 weight
LEVELS = 255  # steps of an uint8 tensor
SMALLEST = torch.finfo(torch.float32).tiny  # of a scale


def learn_rounded(model: nn.Module) -> None:
    """Round, in place, weights and inputs of Linear and Conv1d layers, and what embeddings look up.

    Quantisation-aware training with a straight-through gradient (Jacob et al. 2018, arXiv 1712.05877; Bengio et al.
    2013, arXiv 1308.3432): the stored weights stay float, `zeros.release` gives them back.
    """
    norms = {block.conv: block.norm for block in model.modules() if isinstance(block, ConvBlock)}
    joined = _joined_tables(model)
    for layer in model.modules():
        if isinstance(layer, nn.Embedding):
            layer.register_forward_hook(functools.partial(_looked_up, joined=joined.get(layer)))
        elif isinstance(layer, nn.Linear | nn.Conv1d):
            layer.register_forward_pre_hook(_given)
            rounded = RoundedRows() if isinstance(layer, nn.Linear) else RoundedKernel(norms.get(layer))
            parametrize.register_parametrization(layer, "weight", rounded)


class RoundedRows(nn.Module):
    """The weight of a Linear in symmetric int8, with one scale for each output."""

    def forward(self, weight_OI: Tensor) -> Tensor:
        """The nearest weight that int8 can hold."""
        scale_O = _scale(weight_OI.detach().float().abs().amax(1), LARGEST)
        zero_O = torch.zeros_like(scale_O, dtype=torch.int32)
        rounded_OI = torch.fake_quantize_per_channel_affine(weight_OI.float(), scale_O, zero_O, 0, -LARGEST, LARGEST)
        return rounded_OI.to(weight_OI.dtype)


class RoundedKernel(nn.Module):
    """The weight of a convolution in symmetric int8, with one scale (ConvInteger takes none by channel).

    A batch norm after it is part of what is rounded, as the exporter folds it in (Jacob et al. 2018, section 3.2).
    """

    def __init__(self, norm: nn.BatchNorm1d | None) -> None:
        super().__init__()
        self._norm = [norm]  # in a list it is no part of this module

    def forward(self, weight_OIK: Tensor) -> Tensor:
        """The nearest weight whose product with the norm's factors int8 can hold."""
        folded_OIK = weight_OIK.float() * (factor_O11 := self._factors(weight_OIK))
        scale = _scale(folded_OIK.detach().abs().amax(), LARGEST)
        zero = torch.zeros_like(scale, dtype=torch.int32)
        rounded_OIK = torch.fake_quantize_per_tensor_affine(folded_OIK, scale, zero, -LARGEST, LARGEST)
        return (rounded_OIK / factor_O11).to(weight_OIK.dtype)

    def _factors(self, weight_OIK: Tensor) -> Tensor:
        (norm,) = self._norm
        if norm is None:
            return weight_OIK.new_ones((), dtype=torch.float32)
        assert norm.running_var is not None
        factor_O = norm.weight.detach().float() * (norm.running_var.float() + norm.eps).rsqrt()
        return torch.where(factor_O == 0, 1.0, factor_O)[:, None, None]


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
