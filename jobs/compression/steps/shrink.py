"""Structured pruning: a smaller encoder of the most important parts of a larger one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cluster import quiet
from configs.loader import UsageError
from configs.schema.compression import ShrinkSpec
from jobs.compression import layer_times
from jobs.compression.importance import Importance, importance
from jobs.compression.layer_sizes import Kept, check, lost_by, options, part_of, under, uniform
from jobs.compression.layer_times import LayerTimes
from jobs.compression.step_context import StepContext
from jobs.models import encoder, narrow
from jobs.models.encoder import EncoderClassifier
from jobs.models.layers import KNOWN, LAYERS, LayerSize, set_hidden, set_sizes, sizes_of
from jobs.models.narrow import cut, largest
from jobs.models.student import of_layers


def shrink(model: EncoderClassifier, spec: ShrinkSpec, context: StepContext) -> EncoderClassifier:
    """A copy of `model` without its least important heads, units, layers and dimensions.

    The facts are the sizes of each layer, the share of importance that is lost, and the times that sizes were chosen
    by. Raises `UsageError` for a kind of model whose parts are not known, and for sizes or limits that it cannot have.
    """
    step = spec.title
    config = model.encoder.config
    if config.model_type not in KNOWN:
        raise UsageError(
            f"compression.{step}: no heads and units known for {config.model_type!r} models; for {', '.join(KNOWN)}"
        )
    if getattr(config, "share_layers", False):
        raise UsageError(f"compression.{step}: the student's layers share their weights, and are cut one by one")
    sizes, width = sizes_of(config), config.hidden_size
    heads, units = max(each.heads for each in sizes), max(each.feed_forward for each in sizes)
    check(spec.kept, {"heads": heads, "feed_forward": units, "hidden": width, "layers": len(sizes)}, step)
    with quiet.at_work():
        weighed = importance(model, spec, context)
    times = layer_times.measure(model, context.folder) if spec.limit else None
    kept = uniform(spec.kept, sizes, weighed) if times is None else _fitted(spec, sizes, weighed, times)
    hidden = part_of(spec.kept.get("hidden", 1.0), width)
    dims_H = largest(weighed.dims, hidden)
    smaller = of_parts(model, kept, weighed, dims_H, f"compression.{step}.hidden")
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


def of_parts(
    model: EncoderClassifier, kept: Kept, found: Importance, dims_H: Tensor, field: str = "hidden"
) -> EncoderClassifier:
    """A model of the layers `kept` of `model`, each with its most important heads and units, and of `dims_H`."""
    config, weights = of_layers(model.encoder, list(kept))
    set_hidden(config, len(dims_H), field)
    set_sizes(config, list(kept.values()))
    parts = []
    for number, size in kept.items():
        heads_A = largest(found.heads[number], size.heads)
        rows = (heads_A.unsqueeze(1) * size.head_size + torch.arange(size.head_size)).flatten()
        parts.append(narrow.Kept(rows, rows, largest(found.units[number], size.feed_forward)))
    whole = {f"encoder.{name}": weight for name, weight in weights.items()}
    whole |= {f"head.{name}": weight for name, weight in model.head.state_dict().items()}
    kind = config.model_type
    smaller = encoder.from_config(config, model.pooling, model.classes, model.dropout.p)
    smaller.load_state_dict(cut(whole, KNOWN[kind], f"encoder.{LAYERS[kind]}", parts, dims_H))
    return smaller.train(model.training)


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


def _count(model: EncoderClassifier) -> int:
    return sum(weight.numel() for weight in model.parameters())
