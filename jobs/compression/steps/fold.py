"""Norm folding: a norm's scale and shift move into the layer beside it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from configs.loader import UsageError
from configs.schema.compression import FoldSpec
from jobs.compression.step_context import StepContext
from jobs.models.conv import ConvEncoder
from jobs.models.encoder import EncoderClassifier, GradeHead
from jobs.models.layers import layers_name, layers_of

LAST_NORM = {  # in the last layer of encoders whose norms end a layer: nothing but the pooling reads it
    "bert": "output.LayerNorm",
    "roberta": "output.LayerNorm",
    "xlm-roberta": "output.LayerNorm",
    "electra": "output.LayerNorm",
    "distilbert": "output_layer_norm",
}


def fold(model: EncoderClassifier, spec: FoldSpec, context: StepContext) -> EncoderClassifier:
    """A copy of `model` that answers the same; facts: the norms that were folded.

    BatchNorm moves as a whole into the convolution before it. A LayerNorm's scale and shift alone move, into the layer
    after it, and only where nothing else reads them. In encoders whose layers begin with a norm (ModernBERT) these are
    all norms but that of the embeddings. In encoders whose layers end with one (BERT) it is the last norm, whose
    vectors are pooled, which is linear, and scored; the next layer also adds to the vectors of the other norms.
    """
    folded = copy.deepcopy(model).eval()
    encoder: Any = folded.encoder
    kind = encoder.config.model_type
    if isinstance(encoder, ConvEncoder):
        names = [f"layers.{number}.norm" for number in range(len(encoder.layers))]
        layers: Any = encoder.layers
        for layer in layers:
            layer.conv, layer.norm = fuse_conv_bn_eval(layer.conv, layer.norm), nn.Identity()
        encoder.config.folded = True
    elif kind in LAST_NORM or kind == "modernbert":
        names = [name for name, norm, reader in _pairs(folded) if _into_next(norm, reader)]
    else:
        known = ", ".join(("modernbert", *LAST_NORM))
        raise UsageError(f"compression: fold: the norms of {kind!r} are not known; those of conv, {known} are")
    context.note(spec, norms=names)
    return folded


def _pairs(model: EncoderClassifier) -> Iterator[tuple[str, nn.LayerNorm, nn.Linear]]:
    """Each LayerNorm, by name, that one linear layer alone reads."""
    encoder: Any = model.encoder
    head: Any = model.head.score if isinstance(model.head, GradeHead) else model.head
    path, layers = layers_name(encoder), layers_of(encoder)
    if encoder.config.model_type in LAST_NORM:
        last, name = layers[-1], LAST_NORM[encoder.config.model_type]
        if sum(layer is last for layer in layers) == 1:  # a shared layer is not the last one only
            yield f"{path}.{len(layers) - 1}.{name}", last.get_submodule(name), head  # pyright: ignore[reportReturnType]
        return
    for number, layer in enumerate(layers):
        for name, reader in (("attn_norm", "attn.Wqkv"), ("mlp_norm", "mlp.Wi")):
            if isinstance(norm := layer.get_submodule(name), nn.LayerNorm):  # the first has none before attention
                yield f"{path}.{number}.{name}", norm, layer.get_submodule(reader)  # pyright: ignore[reportReturnType]
    yield "final_norm", encoder.final_norm, head


@torch.no_grad()
def _into_next(norm: nn.LayerNorm, reader: nn.Linear) -> bool:
    """W (scale x + shift) + b = (W scale) x + (W shift + b); False where `reader` adds nothing and the norm does."""
    if norm.bias is not None:
        if reader.bias is None:
            return False
        reader.bias.add_(reader.weight @ norm.bias)
        norm.bias.zero_()
    reader.weight *= norm.weight
    norm.weight.fill_(1.0)
    return True
