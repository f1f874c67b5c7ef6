"""Unstructured pruning: the smallest weights become zero."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils import prune as torch_prune
from transformers.pytorch_utils import Conv1D

from jobs.compression.spec import PruneSpec

MULTIPLIED = (nn.Linear, nn.Conv1d, Conv1D)  # the last is what GPT-2 calls a Linear


def prune(model: nn.Module, spec: PruneSpec) -> nn.Module:
    """Zero the smallest share of all Linear and Conv1d weights, by |w| over the whole model; that stays as it was.

    The head is left alone: a few hundred weights that decide everything.
    """
    pruned = copy.deepcopy(model)
    head = getattr(pruned, "head", None)
    weights = [(layer, "weight") for layer in pruned.modules() if isinstance(layer, MULTIPLIED) and layer is not head]
    torch_prune.global_unstructured(weights, pruning_method=torch_prune.L1Unstructured, amount=spec.sparsity)
    for layer, name in weights:
        torch_prune.remove(layer, name)  # the mask is multiplied in: an ordinary module again
    return pruned


def sparsity(model: nn.Module) -> float:
    """Share of zeros among all Linear and Conv1d weights."""
    weights = [layer.weight for layer in model.modules() if isinstance(layer, MULTIPLIED)]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    return zeros / max(1, sum(weight.numel() for weight in weights))
