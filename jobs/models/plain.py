"""GPT-2's weights under the names and in the form of other models: every matrix [out, in], none for several things."""

from __future__ import annotations

import torch
from torch import Tensor

FUSED, APART = "attn.c_attn", ("attn.query", "attn.key", "attn.value")
TURNED = ("attn.c_proj", "mlp.c_fc", "mlp.c_proj")  # stored as [in, out]
Weights = dict[str, Tensor]


def plain(kind: str, weights: Weights) -> Weights:
    """The weights by the names of `layers.Parts`; those of other kinds of models have them already."""
    if kind != "gpt2":
        return weights
    made: Weights = {}
    for name, weight in weights.items():
        module, _, leaf = name.rpartition(".")
        if module.endswith(FUSED):
            for own, part in zip(APART, weight.chunk(3, dim=-1), strict=True):
                made[f"{module.removesuffix(FUSED)}{own}.{leaf}"] = part.t()
        else:
            made[name] = weight.t() if module.endswith(TURNED) else weight
    return made


def stored(kind: str, weights: Weights) -> Weights:
    """The weights as the model stores them, of those that `plain` gave."""
    if kind != "gpt2":
        return weights
    made: Weights = {}
    for name, weight in weights.items():
        module, _, leaf = name.rpartition(".")
        if module.endswith(APART[0]):
            stem = module.removesuffix(APART[0])
            made[f"{stem}{FUSED}.{leaf}"] = torch.cat([weights[f"{stem}{own}.{leaf}"].t() for own in APART], dim=-1)
        elif not module.endswith(APART):
            made[name] = weight.t().contiguous() if module.endswith(TURNED) else weight
    return made
