"""Zeros that stay zero while a model learns, and whose number rises along a schedule."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils import prune as torch_prune

from configs.loader import UsageError
from configs.schema.compression import DistillStep
from jobs.models.sparsity import multiplied, sparsity_facts

CHOICES = 20  # times that a rising sparsity chooses anew which weights are zero


class Masked(nn.Module):
    """A weight with numbers that count as zero and get no gradient; their mask is a buffer, for checkpoints."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.kept: Tensor
        self.register_buffer("kept", weight.detach() != 0)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with its zeros."""
        return weight * self.kept


class Masks:
    """Holds the zeros of a model in training, whose layers it changes in place; `release` makes them ordinary again."""

    def __init__(self, model: nn.Module, spec: DistillStep, steps: int) -> None:
        """`steps`: of the whole training. Raises `UsageError` where more weights are zero than `spec` asks for."""
        self.done = 0  # number of steps so far
        self._target, self._steps = spec.sparsity, max(1, round(spec.rising * steps))
        self._start = sparsity_facts(model)["sparsity"]
        if self._target is not None and self._start > self._target:
            raise UsageError(
                f"compression.{spec.title}.sparsity: {self._target:g}: {self._start:.3f} of the weights "
                "are zero before it; give more than that, or leave it out"
            )
        self._layers = list(multiplied(model).values())
        for layer in self._layers:
            parametrize.register_parametrization(layer, "weight", Masked(layer.weight))

    @property
    def settled(self) -> bool:
        """Whether the final share of weights is zero."""
        return self._target is None or self.done >= self._steps

    @torch.no_grad()
    def after_step(self) -> None:
        """Choose more zeros where the schedule says so: the smallest weights of all layers, zeros among them."""
        risen = self.settled
        self.done += 1
        if self._target is None or risen or (self.done % max(1, self._steps // CHOICES) and not self.settled):
            return
        masks = [layer.parametrizations.weight[0] for layer in self._layers]
        weights = [layer.parametrizations.weight.original for layer in self._layers]
        sizes = [weight.numel() for weight in weights]
        size_N = torch.cat([mask(weight).abs().flatten() for mask, weight in zip(masks, weights, strict=True)])
        share = cubic(self._start, self._target, self.done / self._steps)
        kept_N = torch_prune.L1Unstructured(amount=share).compute_mask(size_N, torch.ones_like(size_N)).bool()
        for mask, kept in zip(masks, kept_N.split(sizes), strict=True):
            mask.kept.copy_(kept.view_as(mask.kept))


def cubic(start: float, target: float, done: float) -> float:
    """The share of zeros when the share `done` of the steps is over (Zhu and Gupta 2017, arXiv 1710.01878, eq. 1).

    s = s_target + (s_start - s_target) (1 - done)^3: fast while many weights can be spared, slow towards the end.
    """
    return target + (start - target) * (1.0 - done) ** 3


@torch.no_grad()
def release(model: nn.Module) -> None:
    """Make the layers of `model` ordinary again: masked weights become zero, rounded weights get their float values."""
    for layer in model.modules():
        if parametrize.is_parametrized(layer, "weight"):
            held: Any = layer.get_submodule("parametrizations.weight")
            for each in held:
                if isinstance(each, Masked):
                    held.original.copy_(each(held.original))
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
