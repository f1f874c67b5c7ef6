"""Rounding to int8 while a model learns, as ONNX Runtime's file of the step `quantize` will round it."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from configs.schema.compression import QuantizeSpec
from configs.schema.recipe import Recipe
from jobs.data.feeds import take
from jobs.data.prepared import TOKENIZER, Prepared
from jobs.models.encoder import COUNTED, INPUTS, EncoderClassifier
from jobs.models.reference import read_tokenizer
from serving.classifier import pad_id

LARGEST = 127  # code of a symmetric int8 weight
LEVELS = 255  # steps of an uint8 tensor
SMALLEST = torch.finfo(torch.float32).tiny  # scale that is not taken for 0

_calibrating: ContextVar[bool] = ContextVar("calibrating", default=False)  # ranges are observed, nothing is rounded


def learn_rounded(model: nn.Module) -> None:
    """Round weights and inputs of Linear and Conv1d layers, and vectors of embeddings, in place.

    Quantisation-aware training with a straight-through gradient (Jacob et al. 2018, arXiv 1712.05877; Bengio et al.
    2013, arXiv 1308.3432): the stored weights stay float, `masks.release` gives them back. Inputs have the ranges that
    `calibrate` finds, which has to be called before training; ranges of weights and tables follow the weights.
    """
    joined = _joined_tables(model)
    for layer in model.modules():
        if isinstance(layer, nn.Embedding):
            layer.register_forward_hook(functools.partial(_looked_up, joined=joined.get(layer)))
        elif isinstance(layer, nn.Linear | nn.Conv1d):
            rows = RoundedRows(layer.weight)
            layer.register_forward_pre_hook(rows.given)
            parametrize.register_parametrization(layer, "weight", rows)


@torch.no_grad()
def calibrate(model: nn.Module, feeds: Iterable[Mapping[str, Tensor]]) -> None:
    """Fix the ranges of all layers' inputs to those that they have in float over the rows of `feeds`.

    The ranges are the same for all later rows, so that an answer does not depend on the other rows of its batch. Values
    beyond their range have a gradient of zero.
    """
    was_training, token = model.training, _calibrating.set(True)
    model.eval()
    for each in model.modules():
        if isinstance(each, RoundedRows):
            each.range.zero_()
    try:
        for feed in feeds:
            model(**feed)
    finally:
        _calibrating.reset(token)
        model.train(was_training)


class Calibration:
    """The training rows by which the step `quantize` of a recipe fixes the ranges of inputs."""

    def __init__(self, prepared: Prepared, recipe: Recipe) -> None:
        spec = next(
            (each for each in recipe.compression if isinstance(each, QuantizeSpec)), QuantizeSpec(step="quantize")
        )
        filler = pad_id(read_tokenizer(prepared.folder / TOKENIZER))
        rows = take(prepared.examples("train"), INPUTS, filler, spec.calibration_rows)
        self._feeds = [{name: torch.from_numpy(each) for name, each in feed.items()} for feed in rows.feeds]

    def fix_ranges(self, model: nn.Module, device: torch.device) -> None:
        """See `calibrate`."""
        calibrate(model, ({name: each.to(device) for name, each in feed.items()} for feed in self._feeds))


class RoundedRows(nn.Module):
    """The weight of a Linear, or of a Conv1d that is exported as one, in symmetric int8 with a scale for each output.

    A norm that the exporter folds into the layer multiplies an output's weights and its scale alike, which changes no
    rounding. The range of the layer's input, least and most with 0 between them, is a buffer, for checkpoints.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.range: Tensor
        self.register_buffer("range", torch.zeros(2, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        """The nearest weights that int8 can hold."""
        if _calibrating.get():
            return weight
        return rounded_rows(weight.flatten(1)).view_as(weight)

    def given(self, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """The inputs that the layer multiplies in place of its `inputs`; observes their range while calibrating."""
        first, *rest = inputs
        if not _calibrating.get():
            return (rounded_within(first, *self.range.float()), *rest)
        least, most = first.float().aminmax()
        self.range.copy_(torch.stack([torch.minimum(self.range[0], least), torch.maximum(self.range[1], most)]))
        return inputs


def rounded_rows(values: Tensor) -> Tensor:
    """`values` [..., H] in symmetric int8, each row with a scale of its own."""
    rows_NH = values.flatten(0, -2).float()
    scale_N = _scale(rows_NH.detach().abs().amax(1), LARGEST)
    zero_N = torch.zeros_like(scale_N, dtype=torch.int32)
    rounded = torch.fake_quantize_per_channel_affine(rows_NH, scale_N, zero_N, 0, -LARGEST, LARGEST)
    return rounded.view_as(values).to(values.dtype)


def rounded_within(values: Tensor, least: Tensor, most: Tensor) -> Tensor:
    """`values` in uint8 with the scale and zero point that hold the range from `least` to `most`, 0 included."""
    scale = _scale(most - least, LEVELS)
    zero = (-least / scale).round().to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(values.float(), scale, zero, 0, LEVELS).to(values.dtype)


def _scale(size: Tensor, levels: int) -> Tensor:
    """`size` over `levels`; 1 for a tensor of zeros."""
    scale = size / levels
    return torch.where(scale < SMALLEST, torch.ones_like(scale), scale)


def _looked_up(layer: Any, inputs: Any, output: Tensor, joined: tuple[Any, int] | None) -> Tensor:
    """The vectors as the rounded table holds them, without rounding the whole table."""
    if _calibrating.get():
        return output
    if joined is None:
        return rounded_rows(output)
    types, sign = joined
    first_H = sign * types.weight[0]
    return rounded_rows(output + first_H) - first_H


def _joined_tables(model: nn.Module) -> dict[Any, tuple[Any, int]]:
    """Tables that are exported with the first text's type added or subtracted, see `compression.rewrite`."""
    tables: dict[Any, tuple[Any, int]] = {}
    for module in model.modules():
        if isinstance(module, EncoderClassifier) and module.encoder.config.model_type in COUNTED:
            embeddings: Any = module.encoder.embeddings
            types = embeddings.token_type_embeddings
            tables |= {embeddings.position_embeddings: (types, 1), types: (types, -1)}
    return tables
