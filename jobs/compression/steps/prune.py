"""Unstructured pruning: weights become zero, the layers keep their sizes."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune
from transformers.pytorch_utils import Conv1D

from configs.schema.compression import PruneSpec
from jobs.compression.step_context import StepContext
from jobs.models.sparsity import multiplied, sparsity_facts


def prune(model: nn.Module, spec: PruneSpec, context: StepContext) -> nn.Module:
    """`zeroed` with the recipe's seed; the facts are the shares of zeros, over all layers and in each."""
    pruned = zeroed(model, spec, context.recipe.seed)
    context.note(spec, **sparsity_facts(pruned))
    return pruned


def zeroed(model: nn.Module, spec: PruneSpec, seed: int) -> nn.Module:
    """A copy of `model` in which the least important weights of `multiplied` layers are zero.

    Zeros count least, so that pruning twice never goes beyond the larger of two shares.
    """
    pruned = copy.deepcopy(model)
    weights = [(layer, "weight") for layer in multiplied(pruned).values()]
    chance = torch.Generator().manual_seed(seed)
    importance = {(layer, name): _importance(layer.weight.detach(), spec, chance) for layer, name in weights}
    if spec.kept is not None:
        for layer, name in weights:
            torch_prune.custom_from_mask(layer, name, _kept(layer, importance[layer, name], *spec.kept))
    elif spec.scope == "global":
        torch_prune.global_unstructured(
            weights, torch_prune.L1Unstructured, importance_scores=importance, amount=spec.sparsity
        )
    else:
        for layer, name in weights:
            torch_prune.l1_unstructured(layer, name, spec.sparsity, importance[layer, name])
    for layer, name in weights:
        torch_prune.remove(layer, name)  # the mask is multiplied in: an ordinary module again
    return pruned


def largest_of_groups(importance_OI: Tensor, most: int, size: int) -> Tensor:
    """Mask that is 1 at the `most` largest of each `size` inputs in a row, per output (and place in a kernel).

    N:M sparsity (Zhou et al. 2021, arXiv 2102.04010); [O, I] or [O, I, K]. A last group of fewer inputs keeps as many.
    """
    importance = importance_OI.transpose(1, -1)  # inputs last
    inputs = importance.shape[-1]
    filled = nn.functional.pad(importance, (0, -inputs % size), value=-1.0).unflatten(-1, (-1, size))
    mask = torch.zeros_like(filled).scatter(-1, filled.topk(most, dim=-1).indices, 1.0)
    return mask.flatten(-2)[..., :inputs].transpose(1, -1)


def _kept(layer: nn.Module, importance: Tensor, most: int, size: int) -> Tensor:
    """`largest_of_groups` of a layer; GPT-2's layers are stored as [I, O]."""
    if isinstance(layer, Conv1D):
        return largest_of_groups(importance.T, most, size).T
    return largest_of_groups(importance, most, size)


def _importance(weight: Tensor, spec: PruneSpec, chance: torch.Generator) -> Tensor:
    """Importance of each weight: positive, and 0 for a weight of zero."""
    if spec.by == "magnitude":
        return weight.abs()
    return (1.0 - torch.rand(weight.shape, generator=chance)) * (weight != 0)
