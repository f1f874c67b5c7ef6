"""Layers of a model: their place in it, the names of their matrices, and layers with sizes of their own."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from configs.loader import UsageError

LAYERS = {  # where the bodies of models keep their layers, by the model type of a config alone; see `layers_name`
    "bert": "encoder.layer",
    "roberta": "encoder.layer",
    "xlm-roberta": "encoder.layer",
    "electra": "encoder.layer",
    "distilbert": "transformer.layer",
    "modernbert": "layers",
    "gpt2": "h",
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), "layers"),
}
OF_EACH_LAYER = ("layer_types", "_layers")  # entries of configs that are lists over the layers
HEAD_SIZE = "head_size"  # our own entry of a config; without it heads are hidden / heads wide, as in transformers


class Parts(NamedTuple):
    """Names, in a kind of model, of the matrices of a layer and the entries of its config."""

    query: str
    key: str
    value: str
    attended: str
    widened: str
    narrowed: str
    entries: Mapping[str, str]
    gate: str | None = None  # its units are multiplied with those of `widened`
    head_norms: tuple[str, ...] = ()  # of queries and keys, one weight for each dimension of a head

    @property
    def reads(self) -> tuple[str, ...]:
        """The matrices that read token vectors."""
        gate = () if self.gate is None else (self.gate,)
        return (self.query, self.key, self.value, self.widened, *gate)


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
_LLAMA = Parts(
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    attended="self_attn.o_proj",
    widened="mlp.up_proj",
    narrowed="mlp.down_proj",
    entries={"hidden": "hidden_size", "heads": "num_attention_heads", "feed_forward": "intermediate_size"},
    gate="mlp.gate_proj",
    head_norms=("self_attn.q_norm", "self_attn.k_norm"),
)
_GPT2 = Parts(  # by the names of `plain`
    query="attn.query",
    key="attn.key",
    value="attn.value",
    attended="attn.c_proj",
    widened="mlp.c_fc",
    narrowed="mlp.c_proj",
    entries={"hidden": "n_embd", "heads": "n_head", "feed_forward": "n_inner"},
)
OWN_HEADS = {"llama": _LLAMA, "mistral": _LLAMA, "qwen2": _LLAMA, "qwen3": _LLAMA}  # as wide as `head_dim` says
DECODERS = {"gpt2": _GPT2, **OWN_HEADS}
ENCODERS = {"bert": _BERT, "roberta": _BERT, "xlm-roberta": _BERT, "electra": _BERT, "distilbert": _DISTILBERT}
KNOWN = {**ENCODERS, **DECODERS}


class LayerSize(NamedTuple):
    """The sizes that may differ from layer to layer; the width of the token vectors is the whole model's."""

    heads: int
    head_size: int  # dimensions of a head
    feed_forward: int  # units


def body_of(model: nn.Module) -> tuple[str, PreTrainedModel]:
    """The pretrained part of a classifier or a decoder, under the name that it has there."""
    return next((name, each) for name, each in model.named_children() if isinstance(each, PreTrainedModel))


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


def spelt_out(config: PreTrainedConfig) -> PreTrainedConfig:
    """A copy that says what follows from its other sizes: the units of a GPT-2, the width of a decoder's heads."""
    config = copy.deepcopy(config)
    if config.model_type == "gpt2" and config.n_inner is None:
        config.n_inner = 4 * config.n_embd
    if config.model_type in OWN_HEADS and getattr(config, "head_dim", None) is None:
        config.head_dim = config.hidden_size // config.num_attention_heads
    return config


def key_heads(config: PreTrainedConfig, heads: int) -> int:
    """Number of the heads of keys and values, which `heads` of queries may share in groups."""
    return config.num_key_value_heads if config.model_type in OWN_HEADS else heads


def key_heads_for(config: PreTrainedConfig, heads: int, field: str) -> int:
    """The heads of keys and values for fewer `heads` of queries: whole groups leave, or the same number of each group.

    Raises `UsageError`, naming `field`, where neither is possible.
    """
    before, shared = config.num_attention_heads, config.num_key_value_heads
    each = before // shared
    if heads % each == 0:
        return heads // each
    if heads % shared == 0:
        return shared
    able = sorted({number for number in range(1, before + 1) if number % each == 0 or number % shared == 0})
    raise UsageError(
        f"{field}: {heads}: {before} heads share {shared} of keys and values, {each} each; give one of {able}"
    )


def sizes_of(config: PreTrainedConfig) -> list[LayerSize]:
    """The size of every layer of a model of a kind in `KNOWN`."""
    entries = KNOWN[config.model_type].entries
    if config.model_type in DECODERS:
        own = spelt_out(config)
        heads, feed_forward = (getattr(own, entries[name]) for name in ("heads", "feed_forward"))
        size = own.head_dim if config.model_type in OWN_HEADS else own.hidden_size // heads
        return [LayerSize(heads, size, feed_forward)] * own.num_hidden_layers
    sizes = []
    for layer in config.per_layer_config:
        heads, feed_forward = (getattr(layer, entries[name]) for name in ("heads", "feed_forward"))
        sizes.append(LayerSize(heads, getattr(layer, HEAD_SIZE, config.hidden_size // heads), feed_forward))
    return sizes


def set_sizes(config: PreTrainedConfig, sizes: Sequence[LayerSize]) -> None:
    """Write the `sizes` of layers into `config`: into the shared entries, and layer by layer where they differ.

    The latter is transformers' own `per_layer_config`, which stops code that reads a shared entry. Layers of a decoder
    are all alike, and those of a GPT-2 have heads that share its width.
    """
    entries = KNOWN[config.model_type].entries
    most = LayerSize(*map(max, zip(*sizes, strict=True)))
    if config.model_type in DECODERS:
        assert len(set(sizes)) == 1
        if config.model_type in OWN_HEADS:
            config.head_dim = most.head_size
            config.num_key_value_heads = key_heads_for(config, most.heads, "heads")
        setattr(config, entries["heads"], most.heads)
        setattr(config, entries["feed_forward"], most.feed_forward)
        return
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
