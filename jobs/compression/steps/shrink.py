"""Structured pruning: a smaller encoder or decoder of the most important parts of a larger one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from torch import Tensor

from cluster import quiet
from configs.loader import UsageError
from configs.schema.compression import ShrinkSpec
from jobs.compression import layer_times
from jobs.compression.importance import Importance, Model, importance
from jobs.compression.layer_sizes import Kept, check, lost_by, options, part_of, under, uniform
from jobs.compression.layer_times import LayerTimes
from jobs.compression.step_context import StepContext
from jobs.models import decoder, encoder, narrow
from jobs.models.decoder import Decoder
from jobs.models.layers import (
    DECODERS,
    KNOWN,
    OWN_HEADS,
    LayerSize,
    body_of,
    key_heads,
    key_heads_for,
    layers_name,
    set_hidden,
    set_sizes,
    sizes_of,
    spelt_out,
)
from jobs.models.narrow import cut, kept_heads, largest, rows_of
from jobs.models.plain import plain, stored
from jobs.models.student import of_layers

M = TypeVar("M", bound=Model)


def shrink(model: M, spec: ShrinkSpec, context: StepContext) -> M:
    """A copy of `model` without its least important heads, units, layers and dimensions.

    The facts are the sizes of each layer, the share of importance that is lost, and the times that sizes were chosen
    by. Raises `UsageError` for a kind of model whose parts are not known, and for sizes or limits that it cannot have.
    """
    config = body_of(model)[1].config
    check_shrink(spec, config)
    sizes, width = sizes_of(config), config.hidden_size
    with quiet.at_work():
        weighed = importance(model, spec, context)
    times = None
    if spec.limit:
        assert isinstance(model, encoder.EncoderClassifier)  # others are refused
        times = layer_times.measure(model, context.folder)
    kept = uniform(spec.kept, sizes, weighed) if times is None else _fitted(spec, sizes, weighed, times)
    hidden = part_of(spec.kept.get("hidden", 1.0), width)
    dims_H = largest(weighed.dims, hidden)
    smaller = of_parts(model, kept, weighed, dims_H, f"compression.{spec.title}.hidden")
    facts: dict[str, Any] = {
        "layers": [{"layer": number, **size._asdict()} for number, size in kept.items()],
        "hidden": hidden,
        "importance_lost": round(lost_by(kept, weighed), 4),
        "hidden_importance_lost": round(1 - float(weighed.dims[dims_H].sum() / weighed.dims.sum().clamp(min=1e-30)), 4),
        "parameters": {"before": _count(model), "after": _count(smaller)},
    }
    if times is not None:
        facts["ms"] = {"before": times.model(sizes), "after": times.model(list(kept.values()))}
        facts["times"] = times.facts()
    context.note(spec, **facts)
    return smaller


def check_shrink(spec: ShrinkSpec, config: Any) -> None:
    """Raise `UsageError` where a model of `config` cannot be made smaller as `spec` says."""
    step = spec.title
    if config.model_type not in KNOWN:
        raise UsageError(
            f"compression.{step}: no heads and units known for {config.model_type!r} models; for {', '.join(KNOWN)}"
        )
    if getattr(config, "share_layers", False):
        raise UsageError(f"compression.{step}: the student's layers share their weights, and are cut one by one")
    sizes = sizes_of(config)
    heads, units = max(each.heads for each in sizes), max(each.feed_forward for each in sizes)
    there = {"heads": heads, "feed_forward": units, "hidden": config.hidden_size, "layers": len(sizes)}
    check(spec.kept, there, step)
    if config.model_type in DECODERS:
        _check_decoder(spec, config, sizes[0])


def of_parts(model: M, kept: Kept, found: Importance, dims_H: Tensor, field: str = "hidden") -> M:
    """A model of the layers `kept` of `model`, each with its most important heads and units, and of `dims_H`."""
    at, body = body_of(model)
    before, weights = of_layers(body, list(kept))
    config, kind = spelt_out(before), before.model_type
    set_hidden(config, len(dims_H), field)
    set_sizes(config, list(kept.values()))
    parts = []
    for number, size in kept.items():
        own_A = found.heads[number]
        heads_A, shared_G = kept_heads(own_A, size.heads, key_heads(before, len(own_A)), key_heads(config, size.heads))
        rows, shared_rows = rows_of(heads_A, size.head_size), rows_of(shared_G, size.head_size)
        units_F = largest(found.units[number], size.feed_forward)
        parts.append(narrow.Kept(rows, shared_rows, shared_rows, rows, units_F))
    layers = f"{at}.{layers_name(body)}"
    whole = {f"{at}.{name}": weight for name, weight in weights.items()}
    whole |= {name: weight for name, weight in model.state_dict().items() if not name.startswith(f"{at}.")}
    smaller = _of_config(model, config)
    smaller.load_state_dict(stored(kind, cut(plain(kind, whole), KNOWN[kind], layers, parts, dims_H)))
    return smaller.train(model.training)


def _of_config(model: Model, config: Any) -> Any:
    """A model like `model`, of another config."""
    if isinstance(model, Decoder):
        return decoder.from_config(config)
    return encoder.from_config(config, model.pooling, model.classes, model.dropout.p)


def _check_decoder(spec: ShrinkSpec, config: Any, size: LayerSize) -> None:
    """Raise `UsageError` for what a decoder of `config` cannot lose."""
    at, kind = f"compression.{spec.title}", config.model_type
    if spec.limit:
        raise UsageError(
            f"{at}.{spec.limit}: the times of a {kind} model's blocks are not measured; give heads, feed_forward, "
            "hidden or layers"
        )
    heads = part_of(spec.kept.get("heads", size.heads), size.heads)
    hidden = part_of(spec.kept.get("hidden", 1.0), config.hidden_size)
    if kind in OWN_HEADS:
        key_heads_for(config, heads, f"{at}.heads")
        if hidden % heads:  # transformers reads no such config
            raise UsageError(f"{at}.hidden: {hidden}: {heads} heads cannot share it; give a multiple")
    elif heads * size.head_size != hidden:
        raise UsageError(
            f"{at}.{'heads' if 'heads' in spec.kept else 'hidden'}: heads of a {kind} model, {size.head_size} wide "
            f"here, share its width; give hidden={heads * size.head_size} with heads={heads}"
        )


def _fitted(spec: ShrinkSpec, sizes: Sequence[LayerSize], found: Importance, times: LayerTimes) -> Kept:
    """Sizes under the limit of `spec`. Raises `UsageError` where even one layer of the smallest size exceeds it."""
    now = times.model(sizes)
    kept = under(spec.max_ms or now / (spec.speedup or 1), sizes, found, times)
    if kept is None:
        least = min(times.model(options(size)[:1]) for size in sizes)
        slowest, fastest = f"max_ms={1.01 * least:.3g} or more", f"speedup={0.99 * now / least:.3g} or less"
        raise UsageError(
            f"compression.{spec.title}.{spec.limit}: one layer of the smallest size takes {least:.3g} ms, "
            f"the whole model {now:.3g} ms on this machine; give {slowest if spec.speedup is None else fastest}"
        )
    return kept


def _count(model: Model) -> int:
    return sum(weight.numel() for weight in model.parameters())
