"""Encoders that use one layer in all places, stored once (Lan et al. 2020, ALBERT, arXiv 1909.11942)."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from configs.loader import UsageError
from jobs.models.layers import layers_of

ALIKE = (
    "bert",
    "roberta",
    "xlm-roberta",
    "electra",
    "distilbert",
)  # kinds of encoders whose layers can change places


def share_layers(model: PreTrainedModel) -> None:
    """Put the first layer in the place of all others. Raises `UsageError` for a kind whose layers differ."""
    kind = model.config.model_type
    if kind not in ALIKE:
        raise UsageError(f"student.share_layers: true: layers of {kind!r} models are not alike; for {', '.join(ALIKE)}")
    layers = layers_of(model)
    for number in range(1, len(layers)):
        layers[number] = layers[0]
    model.config.share_layers = True


def first_names(model: nn.Module) -> dict[str, str]:
    """For each name in the state of `model`, the first name of the same weight."""
    first: dict[int, str] = {}
    state = model.state_dict(keep_vars=True)
    return {name: first.setdefault(id(weight), name) for name, weight in state.items()}
