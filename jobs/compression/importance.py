"""Importance of the heads, feed-forward units and dimensions of an encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from configs.schema.compression import ShrinkSpec
from jobs.compression.step_context import StepContext
from jobs.data.batches import collate
from jobs.models.encoder import INPUTS, EncoderClassifier
from jobs.models.layers import KNOWN, LAYERS, sizes_of
from jobs.models.narrow import Weights, dimension_axis, magnitudes, votes
from jobs.training.loss import kl, label_loss

ROWS_PER_BATCH = 16  # rows whose gradients may cancel one another
Batch = dict[str, Tensor]
Loss = Callable[[Tensor, Batch], Tensor]


class Importance(NamedTuple):
    """Importance by part, the larger the more important; comparable within a model."""

    heads: list[Tensor]  # of each layer, [A]
    units: list[Tensor]  # of each layer, [F]
    dims: Tensor  # of the token vectors, [H]

    @property
    def layers(self) -> list[float]:
        """Importance of all parts of each layer together."""
        return [float(heads.sum() + units.sum()) for heads, units in zip(self.heads, self.units, strict=True)]


def importance(model: EncoderClassifier, spec: ShrinkSpec, context: StepContext) -> Importance:
    """Importance as `spec` measures it. Raises `JobError` where it needs rows or teacher outputs that are missing."""
    if spec.importance == "magnitude":
        return magnitude(model)
    graded = not isinstance(model.classes, int)
    if spec.loss == "teacher":
        return taylor(model, _batches(spec, context), teacher_loss)
    return taylor(
        model, _batches(spec, context), lambda logits_BC, batch: label_loss(logits_BC, batch["label"], graded=graded)
    )


def magnitude(model: EncoderClassifier) -> Importance:
    """Importance by the norms of the weights, see `narrow.magnitudes` and `narrow.votes`.

    Norms of heads and units have no common scale, so all heads of the model together matter as much as all its units.
    """
    weights, config = {name: weight.detach() for name, weight in model.state_dict().items()}, model.encoder.config
    strengths = magnitudes(config, weights, f"encoder.{LAYERS[config.model_type]}")
    dims_H = votes(weights, KNOWN[config.model_type])
    return Importance(
        _shares([each.values.sum(1) for each in strengths]), _shares([each.units for each in strengths]), dims_H
    )


def taylor(model: EncoderClassifier, batches: Iterable[Batch], loss: Loss) -> Importance:
    """Importance by |w dL/dw| summed over the weights of a part, its mean over rows: to first order the change of L.

    Molchanov et al. 2019, arXiv 1906.10771, with the absolute value in place of the square. L is the mean of
    `loss(logits, batch)` [B] over one batch: a trained model's gradients over all rows together add up to nothing.
    """
    weights = dict(model.named_parameters())
    felt = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    rows = 0
    for batch in batches:
        logits_BC = model(**{name: batch[name] for name in INPUTS})
        gradients = torch.autograd.grad(loss(logits_BC, batch).mean(), list(weights.values()), allow_unused=True)
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            if gradient is not None:
                felt[name] += len(logits_BC) * (weight.detach() * gradient).abs()
        rows += len(logits_BC)
    return _by_structure(model, {name: total / rows for name, total in felt.items()})


def teacher_loss(logits_BC: Tensor, batch: Batch) -> Tensor:
    """KL from the teacher's probabilities to the model's, [B]."""
    return kl(F.log_softmax(batch["teacher_logits"], dim=-1), F.log_softmax(logits_BC, dim=-1))


def _shares(strengths: list[Tensor]) -> list[Tensor]:
    """Each value as a share of the sum over all layers."""
    total = sum(float(each.sum()) for each in strengths)
    return [each / max(total, 1e-30) for each in strengths]


def _by_structure(model: EncoderClassifier, felt: Weights) -> Importance:
    config = model.encoder.config
    parts, heads, units = KNOWN[config.model_type], [], []
    for number, size in enumerate(sizes_of(config)):
        layer = f"encoder.{LAYERS[config.model_type]}.{number}"
        query, key, value, widened = (
            felt[f"{layer}.{name}.weight"].sum(1) + felt[f"{layer}.{name}.bias"]
            for name in (parts.query, parts.key, parts.value, parts.widened)
        )
        attended, narrowed = (felt[f"{layer}.{name}.weight"].sum(0) for name in (parts.attended, parts.narrowed))
        heads.append((query + key + value + attended).view(size.heads, size.head_size).sum(1))
        units.append(widened + narrowed)
    dims_H = torch.zeros(config.hidden_size)
    for name, weight in felt.items():
        if (axis := dimension_axis(name, felt, parts)) is not None:
            dims_H += weight.movedim(axis, 0).flatten(1).sum(1) if weight.ndim > 1 else weight
    return Importance(heads, units, dims_H)


def _batches(spec: ShrinkSpec, context: StepContext) -> Iterator[Batch]:
    """Training rows drawn with the recipe's seed, with the teacher's logits where the loss needs them."""
    examples, teacher_NC = context.prepared.examples("train"), None
    if spec.loss == "teacher":
        teacher_NC = context.teacher_logits(spec, instead="use loss=labels")
    rows = np.random.default_rng(context.recipe.seed).permutation(len(examples))[: spec.calibration_rows]
    for start in range(0, len(rows), ROWS_PER_BATCH):
        chosen = rows[start : start + ROWS_PER_BATCH]
        batch = collate(examples, chosen, int(examples.lengths[chosen].max()))
        if teacher_NC is not None:
            batch["teacher_logits"] = torch.from_numpy(teacher_NC[chosen].astype(np.float32))
        yield batch
