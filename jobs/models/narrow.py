"""Narrower encoders: of a larger one, the dimensions, heads and feed-forward units that weigh most."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from configs.loader import UsageError

Weights = dict[str, Tensor]
NO_DIMENSION = ("head.bias", "head.grades", "head.score.bias")  # all other weights have one place for each dimension


class Parts(NamedTuple):
    """What a kind of encoder calls the matrices of a layer and the entries of its config."""

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
KNOWN = {"bert": _BERT, "roberta": _BERT, "xlm-roberta": _BERT, "distilbert": _DISTILBERT}


def resized(config: PreTrainedConfig, sizes: Mapping[str, int]) -> PreTrainedConfig:
    """A copy of `config` with these of `hidden`, `heads` and `feed_forward`; the others stay.

    Raises `UsageError` for a kind of encoder whose sizes are not known by name, or a width that heads cannot share.
    """
    made = copy.deepcopy(config)
    if not sizes:
        return made
    if made.model_type not in KNOWN:
        name, size = next(iter(sizes.items()))
        raise UsageError(f"student.{name}: {size}: no sizes known for {made.model_type!r}; for {', '.join(KNOWN)}")
    entries = KNOWN[made.model_type].entries
    for name, size in sizes.items():
        setattr(made, entries[name], size)
    hidden, heads = (getattr(made, entries[name]) for name in ("hidden", "heads"))
    if hidden % heads:
        raise UsageError(f"student.hidden: {hidden}: {heads} heads cannot share it; give a multiple, or student.heads")
    return made


def narrow(
    config: PreTrainedConfig, weights: Weights, layers: str, sizes: Mapping[str, int]
) -> tuple[PreTrainedConfig, Weights]:
    """Config and weights of a classifier narrowed to `sizes`; `layers` is the path of its layers among `weights`.

    Magnitude decides, as for the filters of Li et al. 2017 (arXiv 1608.08710, section 3.1). A feed-forward unit, and a
    dimension inside a head, is the outer product of two vectors: what reads into it and what it writes, or its query
    and its key. It weighs the product of their L2 norms, biases included. A head weighs what its values and outputs
    weigh together (heads are left out whole as in Michel et al. 2019, arXiv 1905.10650). A dimension of the token
    vectors is kept in all layers or in none: it weighs the sum, over all matrices, of the norm of its row or column,
    divided by the mean of all rows or columns of that matrix.
    The queries of a smaller head are scaled so that a score is divided by the same root as before.
    """
    made = resized(config, sizes)
    parts = KNOWN[made.model_type]
    hidden, heads, feed_forward = (_fewer(config, made, name, parts) for name in parts.entries)
    before = getattr(config, parts.entries["hidden"]) // getattr(config, parts.entries["heads"])
    if (after := hidden // heads) > before:
        raise UsageError(
            f"student.heads: {heads}: heads of {hidden} / {heads} = {after} dimensions, the teacher's have {before}; "
            f"give student.hidden={heads * before} or less, or more heads"
        )
    written = (parts.attended, parts.narrowed)
    dims = _largest(_votes(weights, written), hidden)
    places: dict[str, tuple[Tensor, Tensor]] = {}  # rows and columns that are kept, by module
    for number in range(config.num_hidden_layers):
        modules = [f"{layers}.{number}.{name}" for name in parts[:6]]
        query, key, value, attended, widened, narrowed = modules
        norm = {each: _norms(weights, each, each.endswith(written)) for each in modules}
        mixed_hd = (norm[value] * norm[attended]).view(-1, before)
        kept = _largest(mixed_hd.sum(1), heads)
        scores = _places((norm[query] * norm[key]).view(-1, before), kept, after)
        values = _places(mixed_hd, kept, after)
        units = _largest(norm[widened] * norm[narrowed], feed_forward)
        places |= {query: (scores, dims), key: (scores, dims), value: (values, dims), attended: (dims, values)}
        places |= {widened: (units, dims), narrowed: (dims, units)}
        # A smaller head divides its scores by a smaller root.
        scaled = {name: weights[name] * (after / before) ** 0.5 for name in (f"{query}.weight", f"{query}.bias")}
        weights = weights | scaled
    return made, {name: _cut(name, weight, places, dims) for name, weight in weights.items()}


def _cut(name: str, weight: Tensor, places: Mapping[str, tuple[Tensor, Tensor]], dims: Tensor) -> Tensor:
    module = name.rpartition(".")[0]
    if module in places:
        rows, columns = places[module]
        return weight[rows][:, columns] if weight.ndim == 2 else weight[rows]
    return weight if name in NO_DIMENSION else weight[..., dims]


def _fewer(config: PreTrainedConfig, made: PreTrainedConfig, name: str, parts: Parts) -> int:
    before, after = (getattr(each, parts.entries[name]) for each in (config, made))
    if after > before:
        raise UsageError(f"student.{name}: {after}: the teacher has {before} to choose from; give at most that many")
    return after


def _norms(weights: Weights, module: str, columns: bool) -> Tensor:
    """L2 norm of each column of a matrix, or of each row with its bias."""
    weight = weights[f"{module}.weight"]
    if columns:
        return weight.norm(dim=0)
    return torch.cat([weight, weights[f"{module}.bias"].unsqueeze(1)], dim=1).norm(dim=1)


def _votes(weights: Weights, written: tuple[str, str]) -> Tensor:
    """What each dimension of the token vectors weighs, [H]; matrices named `written` have a row for it."""
    total_H = torch.zeros(())
    for name, weight in weights.items():
        if weight.ndim == 2:
            norm_H = weight.norm(dim=1 if name.removesuffix(".weight").endswith(written) else 0)
            total_H = total_H + norm_H / norm_H.mean().clamp(min=1e-12)
    return total_H


def _places(strength_hd: Tensor, kept: Tensor, size: int) -> Tensor:
    """Rows of the `size` strongest dimensions in each kept head, head after head."""
    dims = _largest(strength_hd[kept], size)
    return (kept.unsqueeze(1) * strength_hd.shape[1] + dims).flatten()


def _largest(strength: Tensor, count: int) -> Tensor:
    """Indices, in order, of the `count` largest along the last axis."""
    return strength.topk(count, dim=-1).indices.sort(dim=-1).values
