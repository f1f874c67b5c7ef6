"""Layers of a model: where it keeps them."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

LAYERS = {  # where a model keeps its layers, by the model type of its config
    "bert": "encoder.layer",
    "roberta": "encoder.layer",
    "xlm-roberta": "encoder.layer",
    "electra": "encoder.layer",
    "distilbert": "transformer.layer",
    "modernbert": "layers",
    "gpt2": "transformer.h",
    "llama": "model.layers",
    "qwen2": "model.layers",
}


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """The layers, in order, of a kind of model in `LAYERS`."""
    return model.get_submodule(LAYERS[model.config.model_type])  # pyright: ignore[reportReturnType]
