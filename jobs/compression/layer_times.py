"""Times of an encoder's blocks on this machine, by their size: the table that sizes are chosen from.

The idea is ZipLM's (Kurtic et al. 2023, arXiv 2302.04089), here with the blocks as they are exported.
"""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cluster import quiet
from jobs.compression.export.onnx import trace
from jobs.compression.rewrite import for_export, merged
from jobs.models import encoder
from jobs.models.encoder import EncoderClassifier
from jobs.models.layers import LayerSize, layers_of, set_sizes, sizes_of
from jobs.models.loading import longest

TOKENS = 32  # of the one row that is timed, or as many as a shorter model takes
CALLS = 100  # of each block
SHARES = (1 / 16, 1 / 4, 1 / 2, 1)  # of a block's heads and units at which it is timed; lines in between
REST = "rest"
INPUTS = ("input_ids", "attention_mask", "hidden", "mask")  # of every block, which may not read all of them


@dataclass(frozen=True)
class LayerTimes:
    """Milliseconds of one row of so many tokens, one thread of this machine, ONNX Runtime in float32."""

    rest: float  # embeddings, pooling and head
    heads: Mapping[int, float]  # of an attention block with so many heads, rising
    feed_forward: Mapping[int, float]  # of a feed-forward block with so many units, rising
    tokens: int = TOKENS

    def layer(self, size: LayerSize) -> float:
        """Milliseconds of a layer, interpolated between the sizes that were timed."""
        return _between(self.heads, size.heads) + _between(self.feed_forward, size.feed_forward)

    def model(self, sizes: Sequence[LayerSize]) -> float:
        """Milliseconds of a model with layers of these sizes."""
        return self.rest + sum(map(self.layer, sizes))

    def facts(self) -> dict[str, Any]:
        """The times for a report."""
        blocks = {
            name: {str(size): ms for size, ms in getattr(self, name).items()} for name in ("heads", "feed_forward")
        }
        return {
            "tokens": self.tokens,
            "batch": 1,
            "threads": 1,
            "runtime": "onnxruntime float32",
            REST: self.rest,
            **blocks,
        }


def measure(model: EncoderClassifier, folder: Path) -> LayerTimes:
    """Time blocks of some sizes that the layers of `model` could keep; `folder` is for a file in between."""
    sizes = sizes_of(model.encoder.config)
    heads, units = (
        sorted({max(1, round(share * most)) for share in SHARES})
        for most in (max(each.heads for each in sizes), max(each.feed_forward for each in sizes))
    )
    tokens = min(TOKENS, longest(model.encoder) or TOKENS)
    names = [REST, *(f"heads {each}" for each in heads), *(f"units {each}" for each in units)]
    with quiet.at_work():
        apart = _Apart(_staircase(model, heads, units), len(heads), len(units))
        sessions = _sessions(apart, names, folder, tokens)
    with quiet.measuring(threads=1):
        ms = _times(sessions, {name: each.numpy() for name, each in _example(apart, 1, tokens).items()})
    return LayerTimes(
        ms[REST],
        {each: ms[f"heads {each}"] for each in heads},
        {each: ms[f"units {each}"] for each in units},
        tokens,
    )


def _between(times: Mapping[int, float], size: int) -> float:
    return float(np.interp(size, list(times), list(times.values())))


def _staircase(model: EncoderClassifier, heads: Sequence[int], units: Sequence[int]) -> EncoderClassifier:
    """A model like `model`, with new weights and a layer for each size."""
    size = sizes_of(model.encoder.config)[0]
    config = copy.deepcopy(model.encoder.config)
    pairs = itertools.zip_longest(heads, units, fillvalue=1)
    set_sizes(config, [LayerSize(each, size.head_size, wide) for each, wide in pairs])
    return encoder.from_config(config, model.pooling, model.classes, 0.0).eval()


class _Apart(nn.Module):
    """The blocks of a model side by side, each fed with the same token vectors, and the model without its layers."""

    def __init__(self, model: EncoderClassifier, attentions: int, feed_forwards: int) -> None:
        super().__init__()
        model = merged(model)
        self.layers = nn.ModuleList(layers_of(model.encoder))
        del layers_of(model.encoder)[:]
        model.encoder.config.num_hidden_layers = 0  # by which `layers_of` finds the list
        self.rest = for_export(model)
        self.counts = attentions, feed_forwards
        self.width: int = model.encoder.config.hidden_size

    def forward(self, input_ids: Tensor, attention_mask: Tensor, hidden: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Outputs of all blocks for ids and mask [B, L], token vectors [B, L, H] and an additive mask [B, 1, 1, L]."""
        attentions, feed_forwards = (self.layers[:count] for count in self.counts)
        return (
            self.rest(input_ids=input_ids, attention_mask=attention_mask),
            *(_attention(layer, hidden, mask) for layer in attentions),
            *(_feed_forward(layer, hidden) for layer in feed_forwards),
        )


def _attention(layer: Any, hidden_BLH: Tensor, mask_B11L: Tensor) -> Tensor:
    attended_BLH = layer.attention(hidden_BLH, mask_B11L)[0]
    return layer.sa_layer_norm(attended_BLH + hidden_BLH) if hasattr(layer, "sa_layer_norm") else attended_BLH


def _feed_forward(layer: Any, hidden_BLH: Tensor) -> Tensor:
    if hasattr(layer, "ffn"):  # DistilBERT
        return layer.output_layer_norm(layer.ffn(hidden_BLH) + hidden_BLH)
    return layer.feed_forward_chunk(hidden_BLH)


def _example(apart: _Apart, rows: int, tokens: int) -> dict[str, Tensor]:
    ones_BL = torch.ones(rows, tokens, dtype=torch.int64)
    hidden_BLH, mask_B11L = torch.randn(rows, tokens, apart.width), torch.zeros(rows, 1, 1, tokens)
    return dict(zip(INPUTS, (ones_BL, ones_BL.clone(), hidden_BLH, mask_B11L), strict=True))


def _sessions(apart: _Apart, names: Sequence[str], folder: Path, tokens: int) -> dict[str, Any]:
    """{output: an ONNX Runtime session of its block}, out of one export, since an export takes seconds."""
    import onnx
    import onnxruntime
    from onnx.utils import Extractor

    file = folder / "blocks.onnx"
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=tokens)
    free = {name: {0: batch, 3 if name == "mask" else 1: length} for name in INPUTS}
    trace(apart, _example(apart, 2, min(9, tokens)), free, names, file)
    whole = Extractor(onnx.load(str(file)))
    file.unlink()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = {}
    for name in names:
        block = whole.extract_model(list(INPUTS), [name])
        sessions[name] = onnxruntime.InferenceSession(
            block.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    return sessions


def _times(sessions: Mapping[str, Any], feed: Mapping[str, np.ndarray]) -> dict[str, float]:
    """{name: milliseconds}, the lowest decile over calls: other users of the machine can only add to it.

    Calls of all sessions take turns, so that weights come from as far away as in a model.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(CALLS):
        for name, session in sessions.items():
            started = time.perf_counter()
            session.run(None, feed)
            seconds[name].append(time.perf_counter() - started)
    return {name: float(np.percentile(each, 10)) * 1e3 for name, each in seconds.items()}
