"""Accuracy guard: leaves the most sensitive layers in float until the loss is inside its limit.

The sensitivity of a layer is that of ZeroQ (Cai et al. 2020, arXiv 2001.00281): the KL divergence of the answers with
this layer alone in few bits from the answers in float.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cluster.session import JobError
from configs.schema.compression import QuantizeSpec
from jobs.compression.checks.metric import StepMetric, step_metric
from jobs.compression.step_context import StepContext

Convert = Callable[[Collection[str]], Path]  # layers to put in few bits -> the file

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Guarded:
    """The result of the guard, which accepts the file that was converted last."""

    before: float  # metric in float
    after: float  # metric of the accepted file
    in_float: list[str] = field(default_factory=list)  # the most sensitive layer first
    sensitivity: dict[str, float] = field(default_factory=dict)  # nats by layer; empty where no layer is left out


def guarded(
    whole: Path, layers: Sequence[str], convert: Convert, measured: StepMetric, max_loss: float, bits: int = 8
) -> Guarded:
    """Convert all layers but the most sensitive ones, as few as keep the loss within `max_loss`.

    `max_loss` is a share of the metric of `whole`, the file in float. Raises `JobError` where a single layer in so few
    `bits` loses more.
    """
    before = measured.metric(whole)
    after = measured.metric(convert(layers))
    if lost(before, after) <= max_loss:
        return Guarded(before, after)
    suffered = sensitivity(whole, layers, convert, measured)
    ranked = sorted(layers, key=lambda layer: -suffered[layer])
    for number in range(1, len(ranked)):
        after = measured.metric(convert([layer for layer in layers if layer not in ranked[:number]]))
        if lost(before, after) <= max_loss:
            return Guarded(before, after, ranked[:number], {layer: suffered[layer] for layer in ranked})
    raise JobError(
        f"int{bits}: validation {measured.name} falls from {before:.4g} to {after:.4g} with {ranked[-1]} alone in "
        f"{bits} bits, the layer that suffers least; a loss of {max_loss:.2g} is allowed: raise max_loss, or leave the "
        "step out"
    )


def quantize_guarded(
    whole: Path, layers: Sequence[str], convert: Convert, spec: QuantizeSpec, context: StepContext
) -> None:
    """Convert the layers of `whole` as `spec` asks: guarded, or all of them.

    The facts are the number of layers, the ones that stay in float, and the sensitivity of each. Raises `JobError` as
    `guarded` does, and where there is a limit but no rows to measure on.
    """
    measured = step_metric(context, limited=context.max_loss(spec) < 1) if spec.guard else None
    if measured is None:
        convert(layers)
        context.note(spec, guard="no rows to measure on" if spec.guard else "off")
        return
    result = guarded(whole, layers, convert, measured, context.max_loss(spec), spec.bits)
    if result.in_float:
        left, number = result.in_float, len(layers)
        log.warning("int%d leaves %d of %d layers in float: %s", spec.bits, len(left), number, left)
    context.note(spec, layers=len(layers), in_float=result.in_float, sensitivity=result.sensitivity)


def sensitivity(whole: Path, layers: Sequence[str], convert: Convert, measured: StepMetric) -> dict[str, float]:
    """Mean KL(float || this layer alone in few bits) of the answers, in nats, by layer."""
    float_NC = _log_softmax(measured.answers(whole))
    nats = {}
    for layer in layers:
        layer_NC = _log_softmax(measured.answers(convert([layer])))
        nats[layer] = float((np.exp(float_NC) * (float_NC - layer_NC)).sum(1).mean())
    return nats


def lost(before: float, after: float) -> float:
    """The share of a metric that is gone; below 0 where it rose, 0 of a metric of 0."""
    return round(1 - after / before, 9) if before else 0.0


def _log_softmax(logits_NC: np.ndarray) -> np.ndarray:
    shifted_NC = logits_NC.astype(np.float64) - logits_NC.max(1, keepdims=True)
    return shifted_NC - np.log(np.exp(shifted_NC).sum(1, keepdims=True))
