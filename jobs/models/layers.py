"""Layers of a model: their place in it, the names of an encoder's matrices, and layers with sizes of their own."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from configs.loader import UsageError

LAYERS = {  # where encoders keep their layers, by the model type of a config alone; see `layers_name`
    "bert": "encoder.layer",
    "roberta": "encoder.layer",
    "xlm-roberta": "encoder.layer",
    "electra": "encoder.layer",
    "distilbert": "transformer.layer",
    "modernbert": "layers",
}
OF_EACH_LAYER = ("layer_types", "_layers")  # entries of configs that are lists over the layers
HEAD_SIZE = "head_size"  # our own entry of a config; without it heads are hidden / heads wide, as in transformers


class Parts(NamedTuple):
    """Names, in a kind of encoder, of the matrices of a layer and the entries of its config."""

    query: str
    key: str
    value: str
    attended: str
    widened: str
    narrowed: str
    entries: Mapping[str, str]


_BERT = Parts(
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attended="attention.output.dense",
    widened="intermediate.dense",
    narrowed="output.dense",
    entries={"hidden": "hidden_size", "heads": "num_attention_heads", "feed_forward": "intermediate_size"},
)
_DISTILBERT = Parts(
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attended="attention.out_lin",
    widened="ffn.lin1",
    narrowed="ffn.lin2",
    entries={"hidden": "dim", "heads": "n_heads", "feed_forward": "hidden_dim"},
)
KNOWN = {"bert": _BERT, "roberta": _BERT, "xlm-roberta": _BERT, "electra": _BERT, "distilbert": _DISTILBERT}


class LayerSize(NamedTuple):
    """The sizes that may differ from layer to layer; the width of the token vectors is the whole model's."""

    heads: int
    head_size: int  # dimensions of a head
    feed_forward: int  # units


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """The layers of a model, in order."""
    return model.get_submodule(layers_name(model))  # pyright: ignore[reportReturnType]


def layers_name(model: PreTrainedModel) -> str:
    """Where a model keeps its layers. Raises `UsageError` where it has no list of them, as ALBERT with its one."""
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == model.config.num_hidden_layers:
            return name
    kind = model.config.model_type
    raise UsageError(f"student.layers: {kind!r} has no list of layers to choose from; give another teacher or kind")


def keep_layers(config: PreTrainedConfig, chosen: Sequence[int]) -> None:
    """Make `config` that of some of its layers: each keeps what it was trained with, such as its kind of attention."""
    count = config.num_hidden_layers
    config.num_hidden_layers = len(chosen)
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == count and name.endswith(OF_EACH_LAYER):
            setattr(config, name, [value[index] for index in chosen])


def has_own_sizes(config: PreTrainedConfig) -> bool:
    """Whether the layers have sizes that the usual entries of `config` cannot express."""
    return HEAD_SIZE in vars(config)


def sizes_of(config: PreTrainedConfig) -> list[LayerSize]:
    """The size of every layer of an encoder of a kind in `KNOWN`."""
    entries = KNOWN[config.model_type].entries
    sizes = []
    for layer in config.per_layer_config:
        heads, feed_forward = (getattr(layer, entries[name]) for name in ("heads", "feed_forward"))
        sizes.append(LayerSize(heads, getattr(layer, HEAD_SIZE, config.hidden_size // heads), feed_forward))
    return sizes


def set_sizes(config: PreTrainedConfig, sizes: Sequence[LayerSize]) -> None:
    """Write the `sizes` of layers into `config`: into the shared entries, and layer by layer where they differ.

    The latter is transformers' own `per_layer_config`, which stops code that reads a shared entry.
    """
    entries = KNOWN[config.model_type].entries
    most = LayerSize(*map(max, zip(*sizes, strict=True)))
    config.per_layer_config = None
    config.num_hidden_layers = len(sizes)
    vars(config).pop(HEAD_SIZE, None)
    setattr(config, entries["heads"], most.heads)
    setattr(config, entries["feed_forward"], most.feed_forward)
    differ = len(set(sizes)) > 1
    if differ or most.heads * most.head_size != config.hidden_size:
        setattr(config, HEAD_SIZE, most.head_size)
    if differ:
        names = (entries["heads"], HEAD_SIZE, entries["feed_forward"])
        config.per_layer_config = {
            number: dict(zip(names, size, strict=True))
            for number, size in enumerate(sizes)  # pyright: ignore[reportAttributeAccessIssue]
        }


def set_hidden(config: PreTrainedConfig, hidden: int, field: str) -> None:
    """Write the width of token vectors into `config`; embeddings that had the same width get it, too.

    Raises `UsageError`, naming `field`, for the width at which ELECTRA would not project its embeddings any more.
    """
    entry = KNOWN[config.model_type].entries["hidden"]
    embedded, before = getattr(config, "embedding_size", None), getattr(config, entry)
    if embedded == before:
        setattr(config, "embedding_size", hidden)  # noqa: B010 - not every config has it
    elif embedded == hidden:
        raise UsageError(f"{field}: {hidden}: as wide as the token embeddings, which are projected; give another width")
    setattr(config, entry, hidden)


def build(config: PreTrainedConfig) -> PreTrainedModel:
    """A model with new weights in float32; layers get sizes of their own where `config` has them."""
    if not has_own_sizes(config):
        return AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False)
    sizes, alike = sizes_of(config), copy.deepcopy(config)
    set_sizes(alike, [LayerSize(1, config.hidden_size, 1)] * len(sizes))  # sizes that transformers can build
    model = AutoModel.from_config(alike, dtype=torch.float32, trust_remote_code=False)
    for layer, size in zip(layers_of(model), sizes, strict=True):
        _resize(layer, KNOWN[config.model_type], size, config.hidden_size)
    set_sizes(model.config, sizes)
    return model


def _resize(layer: nn.Module, parts: Parts, size: LayerSize, hidden: int) -> None:
    inside = size.heads * size.head_size
    for name in (parts.query, parts.key, parts.value):
        layer.set_submodule(name, nn.Linear(hidden, inside))
    layer.set_submodule(parts.attended, nn.Linear(inside, hidden))
    layer.set_submodule(parts.widened, nn.Linear(hidden, size.feed_forward))
    layer.set_submodule(parts.narrowed, nn.Linear(size.feed_forward, hidden))
    attention: Any = layer.get_submodule(parts.query.rpartition(".")[0])
    setattr(attention, parts.entries["heads"], size.heads)
    attention.attention_head_size = size.head_size
    attention.scaling = size.head_size**-0.5
