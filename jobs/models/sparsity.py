"""Weights that are zero: which layers are counted, and how many there are."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

MULTIPLIED = (nn.Linear, nn.Conv1d, Conv1D)  # the last is what GPT-2 calls a Linear


def multiplied(model: nn.Module) -> dict[str, Any]:
    """Linear and Conv1d layers by name, but for the head: a few hundred weights that decide everything."""
    head = set(model.get_submodule("head").modules()) if hasattr(model, "head") else set()
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, MULTIPLIED) and layer not in head}


def sparsity_facts(model: nn.Module) -> dict[str, Any]:
    """Share of zeros among the weights of `multiplied` layers: `sparsity` of all together, and of each in `layers`."""
    counts = {name: int((layer.weight == 0).sum()) for name, layer in multiplied(model).items()}
    sizes = {name: layer.weight.numel() for name, layer in multiplied(model).items()}
    return {
        "sparsity": sum(counts.values()) / max(1, sum(sizes.values())),
        "layers": {name: round(count / sizes[name], 4) for name, count in counts.items()},
    }
