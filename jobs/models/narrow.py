"""Narrower encoders: the dimensions, heads and feed-forward units of a larger encoder that weigh most."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from configs.loader import UsageError
from jobs.models.layers import KNOWN, Parts, has_own_sizes, set_hidden, sizes_of

Weights = dict[str, Tensor]
NO_DIMENSION = ("head.bias", "head.grades", "head.score.bias")
PROJECTION = "encoder.embeddings_project"  # of ELECTRA, from its token embeddings to the token vectors


class Kept(NamedTuple):
    """The parts that stay in a layer: rows of queries and keys, rows of values, feed-forward units."""

    scores: Tensor
    values: Tensor
    units: Tensor


class Strength(NamedTuple):
    """Magnitudes of the parts of a layer."""

    scores: Tensor  # [heads, head size]: a dimension of the queries and keys
    values: Tensor  # [heads, head size]: a dimension of the values
    units: Tensor  # [feed-forward]


def resized(config: PreTrainedConfig, sizes: Mapping[str, int]) -> PreTrainedConfig:
    """A copy of `config` with the given `sizes` (`hidden`, `heads`, `feed_forward`); the others stay.

    Raises `UsageError` for a kind of encoder whose sizes are not known by name, a width that heads cannot share, or
    layers that differ already.
    """
    changed = copy.deepcopy(config)
    if has_own_sizes(changed):
        raise UsageError(
            "student: the teacher's layers have sizes of their own; give student.kind=layers, and neither hidden, "
            "heads nor feed_forward"
        )
    if not sizes:
        return changed
    if changed.model_type not in KNOWN:
        name, size = next(iter(sizes.items()))
        raise UsageError(f"student.{name}: {size}: no sizes known for {changed.model_type!r}; for {', '.join(KNOWN)}")
    entries = KNOWN[changed.model_type].entries
    for name, size in sizes.items():
        if name == "hidden":
            set_hidden(changed, size, "student.hidden")
        else:
            setattr(changed, entries[name], size)
    hidden, heads = (getattr(changed, entries[name]) for name in ("hidden", "heads"))
    if hidden % heads:
        raise UsageError(f"student.hidden: {hidden}: {heads} heads cannot share it; give a multiple, or student.heads")
    return changed


def smaller(config: PreTrainedConfig, sizes: Mapping[str, int]) -> PreTrainedConfig:
    """As `resized`, but raises `UsageError` where a size is larger than in `config`: `narrow` cannot make it."""
    narrowed = resized(config, sizes)
    parts = KNOWN[narrowed.model_type]
    for name, entry in parts.entries.items():
        before, after = getattr(config, entry), getattr(narrowed, entry)
        if after > before:
            raise UsageError(
                f"student.{name}: {after}: the teacher has {before} to choose from; give at most that many"
            )
    hidden, heads = (getattr(narrowed, parts.entries[name]) for name in ("hidden", "heads"))
    before, after = (_head_size(each, parts) for each in (config, narrowed))
    if after > before:
        raise UsageError(
            f"student.heads: {heads}: heads of {hidden} / {heads} = {after} dimensions, the teacher's have {before}; "
            f"give student.hidden={heads * before} or less, or more heads"
        )
    return narrowed


def narrow(
    config: PreTrainedConfig, weights: Weights, layers: str, sizes: Mapping[str, int]
) -> tuple[PreTrainedConfig, Weights]:
    """Config and weights of a classifier narrowed to `sizes`; `layers` is the path of its layers among `weights`.

    Magnitude decides, see `magnitudes` and `votes`. A dimension of the token vectors is kept in all layers or in none.
    The queries of a smaller head are scaled so that a score is still divided by the same root.
    """
    changed = smaller(config, sizes)
    parts = KNOWN[changed.model_type]
    hidden, heads, feed_forward = (getattr(changed, entry) for entry in parts.entries.values())
    before, after = (_head_size(each, parts) for each in (config, changed))
    dims = largest(votes(weights, parts), hidden)
    kept, scaled = [], {}
    for number, strength in enumerate(magnitudes(config, weights, layers)):
        chosen = largest(strength.values.sum(1), heads)
        scores, values = (_places(each, chosen, after) for each in (strength.scores, strength.values))
        kept.append(Kept(scores, values, largest(strength.units, feed_forward)))
        # A smaller head divides its scores by a smaller root.
        query = f"{layers}.{number}.{parts.query}"
        scaled |= {name: weights[name] * (after / before) ** 0.5 for name in (f"{query}.weight", f"{query}.bias")}
    return changed, cut(weights | scaled, parts, layers, kept, dims)


def magnitudes(config: PreTrainedConfig, weights: Weights, layers: str) -> list[Strength]:
    """Magnitudes of the parts of each layer, as of the filters of Li et al. 2017 (arXiv 1608.08710, section 3.1).

    A feed-forward unit, or a dimension inside a head, is the outer product of two vectors: the weights that it reads by
    and those that it writes by, or its query and its key. It weighs the product of their L2 norms, biases included. So
    a head weighs as much as its values and outputs together (heads are left out whole as in Michel et al. 2019, arXiv
    1905.10650).
    """
    parts, strengths = KNOWN[config.model_type], []
    for number, size in enumerate(sizes_of(config)):
        query, key, value, attended, widened, narrowed = (
            _norms(weights, f"{layers}.{number}.{name}", name in (parts.attended, parts.narrowed)) for name in parts[:6]
        )
        scores, values = (each.view(size.heads, size.head_size) for each in (query * key, value * attended))
        strengths.append(Strength(scores, values, widened * narrowed))
    return strengths


def votes(weights: Weights, parts: Parts) -> Tensor:
    """Magnitude of each dimension of the token vectors, [H].

    It is the sum, over all matrices, of the norm of its row or column, divided by the matrix's mean of such norms.
    """
    total_H = torch.zeros(())
    for name, weight in weights.items():
        axis = dimension_axis(name, weights, parts)
        if weight.ndim == 2 and axis is not None:
            norm_H = weight.norm(dim=1 - axis)
            total_H = total_H + norm_H / norm_H.mean().clamp(min=1e-12)
    return total_H


def cut(weights: Weights, parts: Parts, layers: str, kept: Sequence[Kept], dims: Tensor) -> Weights:
    """The kept weights of a classifier: `dims` of the token vectors, and the parts `kept` of each layer."""
    own: dict[str, tuple[int, Tensor]] = {}  # axis and places on it, by module
    for number, (scores, values, units) in enumerate(kept):
        query, key, value, attended, widened, narrowed = (f"{layers}.{number}.{name}" for name in parts[:6])
        own |= {query: (0, scores), key: (0, scores), value: (0, values), attended: (1, values)}
        own |= {widened: (0, units), narrowed: (1, units)}
    narrower = {}
    for name, weight in weights.items():
        if (along := dimension_axis(name, weights, parts)) is not None:
            weight = weight.index_select(along, dims)  # noqa: PLW2901
        axis, places = own.get(name.rpartition(".")[0], (weight.ndim, dims))
        narrower[name] = weight.index_select(axis, places) if axis < weight.ndim else weight  # a bias has one axis
    return narrower


def dimension_axis(name: str, weights: Weights, parts: Parts) -> int | None:
    """The axis of a classifier's weight that runs over the dimensions of the token vectors; None where none does."""
    module = name.rpartition(".")[0]
    before_projection = f"{PROJECTION}.weight" in weights and name.startswith("encoder.embeddings.")
    if name in NO_DIMENSION or before_projection:
        return None
    if module.endswith((parts.attended, parts.narrowed)) or module == PROJECTION:
        return 0
    if module.endswith((parts.query, parts.key, parts.value, parts.widened)):
        return 1 if weights[name].ndim == 2 else None
    return weights[name].ndim - 1


def largest(strength: Tensor, count: int) -> Tensor:
    """Indices, in order, of the `count` largest along the last axis."""
    return strength.topk(count, dim=-1).indices.sort(dim=-1).values


def _head_size(config: PreTrainedConfig, parts: Parts) -> int:
    return getattr(config, parts.entries["hidden"]) // getattr(config, parts.entries["heads"])


def _norms(weights: Weights, module: str, columns: bool) -> Tensor:
    """L2 norm of each column of a matrix, or of each row with its bias."""
    weight = weights[f"{module}.weight"]
    if columns:
        return weight.norm(dim=0)
    return torch.cat([weight, weights[f"{module}.bias"].unsqueeze(1)], dim=1).norm(dim=1)


def _places(strength_hd: Tensor, kept: Tensor, size: int) -> Tensor:
    """Rows of the `size` strongest dimensions in each kept head, head after head."""
    dims = largest(strength_hd[kept], size)
    return (kept.unsqueeze(1) * strength_hd.shape[1] + dims).flatten()
