"""Zero weights: the layers that count, and their shares of zeros."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

MULTIPLIED = (nn.Linear, nn.Conv1d, Conv1D)  # the last is GPT-2's Linear


def multiplied(model: nn.Module) -> dict[str, Any]:
    """Linear and Conv1d layers by name, without the head, whose few hundred weights decide everything."""
    head = set(model.get_submodule("head").modules()) if hasattr(model, "head") else set()
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, MULTIPLIED) and layer not in head}


def sparsity_facts(model: nn.Module) -> dict[str, Any]:
    """Share of zero weights in `multiplied` layers: `sparsity` over all of them, and for each one in `layers`."""
    counts = {name: int((layer.weight == 0).sum()) for name, layer in multiplied(model).items()}
    sizes = {name: layer.weight.numel() for name, layer in multiplied(model).items()}
    return {
        "sparsity": sum(counts.values()) / max(1, sum(sizes.values())),
        "layers": {name: round(count / sizes[name], 4) for name, count in counts.items()},
    }
