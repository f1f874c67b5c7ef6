"""Narrower models: the dimensions, heads and feed-forward units of a larger encoder or decoder that weigh most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from configs.loader import UsageError
from jobs.models.layers import (
    KNOWN,
    OWN_HEADS,
    Parts,
    has_own_sizes,
    key_heads,
    key_heads_for,
    set_hidden,
    sizes_of,
    spelt_out,
)
from jobs.models.plain import Weights, plain, stored

NO_DIMENSION = ("head.bias", "head.grades", "head.score.bias")
PROJECTION = "encoder.embeddings_project"  # of ELECTRA, from its token embeddings to the token vectors


class Kept(NamedTuple):
    """The parts that stay in a layer: rows of its queries, keys and values, columns of what they write, its units."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    attended: Tensor
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
    changed = spelt_out(config)
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
    if "heads" in sizes and changed.model_type in OWN_HEADS and sizes["heads"] <= getattr(changed, entries["heads"]):
        changed.num_key_value_heads = key_heads_for(changed, sizes["heads"], "student.heads")
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
    narrowed, config = resized(config, sizes), spelt_out(config)
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
    """Config and weights of a model narrowed to `sizes`; `layers` is the path of its layers among `weights`.

    Magnitude decides, see `magnitudes` and `votes`. A dimension of the token vectors is kept in all layers or in none.
    The queries of a smaller head are scaled so that a score is still divided by the same root. Heads of a decoder that
    turns queries and keys by their place stay whole.
    """
    changed, config = smaller(config, sizes), spelt_out(config)
    parts = KNOWN[changed.model_type]
    weights = plain(changed.model_type, weights)
    hidden, heads, feed_forward = (getattr(changed, entry) for entry in parts.entries.values())
    before, after = (_head_size(each, parts) for each in (config, changed))
    dims = largest(votes(weights, parts), hidden)
    kept, scaled = [], {}
    for number, strength in enumerate(magnitudes(config, weights, layers)):
        chosen, shared = kept_heads(
            strength.values.sum(1), heads, key_heads(config, len(strength.values)), key_heads(changed, heads)
        )
        scores, values = (_places(each, chosen, after) for each in (strength.scores, strength.values))
        whole = config.model_type in OWN_HEADS
        keys, read = [rows_of(shared, after)] * 2 if whole else (scores, values)
        kept.append(Kept(scores, keys, read, values, largest(strength.units, feed_forward)))
        # A smaller head divides its scores by a smaller root.
        query = f"{layers}.{number}.{parts.query}"
        names = [name for name in (f"{query}.weight", f"{query}.bias") if name in weights and after != before]
        scaled |= {name: weights[name] * (after / before) ** 0.5 for name in names}
    return changed, stored(changed.model_type, cut(weights | scaled, parts, layers, kept, dims))


def kept_heads(strength_A: Tensor, heads: int, shared: int, shared_after: int) -> tuple[Tensor, Tensor]:
    """The strongest `heads` of queries, and the heads of keys and values that stay with them, in order.

    `shared` heads of keys and values have a group of queries each; whole groups leave where `shared_after` is less,
    else as many queries of each group.
    """
    strength_GA = strength_A.view(shared, -1)
    if shared_after < shared:
        groups, of_each = largest(strength_GA.sum(1), shared_after), strength_GA.shape[1]
    else:
        groups, of_each = torch.arange(shared), heads // shared
    chosen = groups.unsqueeze(1) * strength_GA.shape[1] + largest(strength_GA[groups], of_each)
    return chosen.flatten(), groups


def rows_of(heads: Tensor, size: int) -> Tensor:
    """All rows of heads of `size` dimensions."""
    return (heads.unsqueeze(1) * size + torch.arange(size)).flatten()


def magnitudes(config: PreTrainedConfig, weights: Weights, layers: str) -> list[Strength]:
    """Magnitudes of the parts of each layer, as of the filters of Li et al. 2017 (arXiv 1608.08710, section 3.1).

    A feed-forward unit, or a dimension inside a head, is the outer product of two vectors: the weights that it reads by
    and those that it writes by, or its query and its key. It weighs the product of their L2 norms, biases included. So
    a head weighs as much as its values and outputs together (heads are left out whole as in Michel et al. 2019, arXiv
    1905.10650).
    """
    parts, strengths = KNOWN[config.model_type], []
    for number, size in enumerate(sizes_of(config)):
        layer, shared = f"{layers}.{number}", key_heads(config, size.heads)
        query, attended = (
            _norms(weights, f"{layer}.{name}", name == parts.attended).view(size.heads, size.head_size)
            for name in (parts.query, parts.attended)
        )
        key, value = (
            _norms(weights, f"{layer}.{name}", False).view(shared, -1).repeat_interleave(size.heads // shared, 0)
            for name in (parts.key, parts.value)
        )
        units = _norms(weights, f"{layer}.{parts.widened}", False) * _norms(weights, f"{layer}.{parts.narrowed}", True)
        if parts.gate is not None:
            units = units * _norms(weights, f"{layer}.{parts.gate}", False)
        strengths.append(Strength(query * key, value * attended, units))
    return strengths


def votes(weights: Weights, parts: Parts) -> Tensor:
    """Magnitude of each dimension of the token vectors, [H].

    It is the sum, over all matrices, of the norm of its row or column, divided by the matrix's mean of such norms. A
    matrix that stands in two places counts once.
    """
    total_H, seen = torch.zeros(()), set()
    for name, weight in weights.items():
        axis = dimension_axis(name, weights, parts)
        if weight.ndim == 2 and axis is not None and weight.data_ptr() not in seen:
            seen.add(weight.data_ptr())
            norm_H = weight.norm(dim=1 - axis)
            total_H = total_H + norm_H / norm_H.mean().clamp(min=1e-12)
    return total_H


def cut(weights: Weights, parts: Parts, layers: str, kept: Sequence[Kept], dims: Tensor) -> Weights:
    """The kept ones of `plain` weights: `dims` of the token vectors, and the parts `kept` of each layer."""
    own: dict[str, tuple[int, Tensor]] = {}  # axis and places on it, by module
    for number, each in enumerate(kept):
        query, key, value, attended, widened, narrowed = (f"{layers}.{number}.{name}" for name in parts[:6])
        own |= {query: (0, each.queries), key: (0, each.keys), value: (0, each.values), attended: (1, each.attended)}
        own |= {widened: (0, each.units), narrowed: (1, each.units)}
        if parts.gate is not None:
            own[f"{layers}.{number}.{parts.gate}"] = (0, each.units)
    narrower = {}
    for name, weight in weights.items():
        if (along := dimension_axis(name, weights, parts)) is not None:
            weight = weight.index_select(along, dims)  # noqa: PLW2901
        axis, places = own.get(name.rpartition(".")[0], (weight.ndim, dims))
        narrower[name] = weight.index_select(axis, places) if axis < weight.ndim else weight  # a bias has one axis
    return narrower


def dimension_axis(name: str, weights: Weights, parts: Parts) -> int | None:
    """The axis of a `plain` weight that runs over the dimensions of the token vectors; None where none does."""
    module = name.rpartition(".")[0]
    before_projection = f"{PROJECTION}.weight" in weights and name.startswith("encoder.embeddings.")
    if name in NO_DIMENSION or before_projection or module.endswith(parts.head_norms):
        return None
    if module.endswith((parts.attended, parts.narrowed)) or module == PROJECTION:
        return 0
    if module.endswith(parts.reads):
        return 1 if weights[name].ndim == 2 else None
    return weights[name].ndim - 1


def largest(strength: Tensor, count: int) -> Tensor:
    """Indices, in order, of the `count` largest along the last axis."""
    return strength.topk(count, dim=-1).indices.sort(dim=-1).values


def _head_size(config: PreTrainedConfig, parts: Parts) -> int:
    if config.model_type in OWN_HEADS:
        return config.head_dim
    return getattr(config, parts.entries["hidden"]) // getattr(config, parts.entries["heads"])


def _norms(weights: Weights, module: str, columns: bool) -> Tensor:
    """L2 norm of each column of a matrix, or of each row with its bias, if there is one."""
    weight = weights[f"{module}.weight"]
    if columns or f"{module}.bias" not in weights:
        return weight.norm(dim=0 if columns else 1)
    return torch.cat([weight, weights[f"{module}.bias"].unsqueeze(1)], dim=1).norm(dim=1)


def _places(strength_hd: Tensor, kept: Tensor, size: int) -> Tensor:
    """Rows of the `size` strongest dimensions in each kept head, head after head."""
    dims = largest(strength_hd[kept], size)
    return (kept.unsqueeze(1) * strength_hd.shape[1] + dims).flatten()
