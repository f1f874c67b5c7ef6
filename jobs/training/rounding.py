"""Rounding to int8 while a model learns, as ONNX Runtime's dynamic quantisation will round it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

LARGEST = 127  # of a symmetric int8 weight
LEVELS = 255  # steps of an uint8 tensor
SMALLEST = torch.finfo(torch.float32).tiny  # of a scale


def learn_rounded(model: nn.Module) -> None:
    """Round, in place, weights and inputs of Linear and Conv1d layers, and what embeddings look up.

    Quantisation-aware training with a straight-through gradient (Jacob et al. 2018, arXiv 1712.05877; Bengio et al.
    2013, arXiv 1308.3432): the stored weights stay float, `zeros.release` gives them back.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Embedding):
            layer.register_forward_hook(_looked_up)
        elif isinstance(layer, nn.Linear | nn.Conv1d):
            layer.register_forward_pre_hook(_given)
            parametrize.register_parametrization(layer, "weight", Rounded(by_row=isinstance(layer, nn.Linear)))


class Rounded(nn.Module):
    """A weight in symmetric int8: of a Linear with one scale for each output, of a convolution with one."""

    def __init__(self, by_row: bool) -> None:
        super().__init__()
        self._by_row = by_row  # ConvInteger takes no scale by channel

    def forward(self, weight: Tensor) -> Tensor:
        """The nearest weight that int8 can hold."""
        given, within = weight.float(), weight.detach().float().abs()
        if self._by_row:
            scale_O = _scale(within.amax(1), LARGEST)
            zero_O = torch.zeros_like(scale_O, dtype=torch.int32)
            rounded = torch.fake_quantize_per_channel_affine(given, scale_O, zero_O, 0, -LARGEST, LARGEST)
        else:
            scale = _scale(within.amax(), LARGEST)
            zero = torch.zeros_like(scale, dtype=torch.int32)
            rounded = torch.fake_quantize_per_tensor_affine(given, scale, zero, -LARGEST, LARGEST)
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


def _looked_up(layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """The rows as the rounded table holds them, without rounding the whole table."""
    return rounded_like(output, layer.weight)  # pyright: ignore[reportArgumentType]
