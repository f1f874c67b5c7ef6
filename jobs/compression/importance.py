"""Importance of the heads, feed-forward units and dimensions of an encoder or a decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from configs.schema.compression import ShrinkSpec
from configs.schema.distillation import DistillationSpec
from jobs.compression.step_context import StepContext
from jobs.data.batches import collate, collate_packs
from jobs.data.prepared import Examples
from jobs.models import decoder, encoder
from jobs.models.decoder import Decoder
from jobs.models.encoder import EncoderClassifier
from jobs.models.layers import KNOWN, body_of, key_heads, layers_name, sizes_of
from jobs.models.narrow import dimension_axis, magnitudes, votes
from jobs.models.plain import Weights, plain
from jobs.training.loss import completion_loss, distill_completion_loss, kl, label_loss

ROWS_PER_BATCH = 16  # rows whose gradients may cancel one another
Batch = dict[str, Tensor]
Loss = Callable[[Tensor, Batch], Tensor]
Model = EncoderClassifier | Decoder
INSTEAD = "use loss=labels"


class Importance(NamedTuple):
    """Importance by part, the larger the more important; comparable within a model."""

    heads: list[Tensor]  # of each layer, [A]
    units: list[Tensor]  # of each layer, [F]
    dims: Tensor  # of the token vectors, [H]

    @property
    def layers(self) -> list[float]:
        """Importance of all parts of each layer together."""
        return [float(heads.sum() + units.sum()) for heads, units in zip(self.heads, self.units, strict=True)]


def importance(model: Model, spec: ShrinkSpec, context: StepContext) -> Importance:
    """Importance as `spec` measures it. Raises `JobError` where it needs rows or teacher outputs that are missing."""
    if spec.importance == "magnitude":
        return magnitude(model)
    if isinstance(model, Decoder):
        return taylor(model, _completions(spec, context), _completion_loss(spec, context))
    graded = not isinstance(model.classes, int)
    if spec.loss == "teacher":
        return taylor(model, _batches(spec, context), teacher_loss)
    return taylor(
        model, _batches(spec, context), lambda logits_BC, batch: label_loss(logits_BC, batch["label"], graded=graded)
    )


def magnitude(model: Model) -> Importance:
    """Importance by the norms of the weights, see `narrow.magnitudes` and `narrow.votes`.

    Norms of heads and units have no common scale, so all heads of the model together matter as much as all its units.
    """
    name, body = body_of(model)
    weights = plain(body.config.model_type, {name: weight.detach() for name, weight in model.named_parameters()})
    strengths = magnitudes(body.config, weights, f"{name}.{layers_name(body)}")
    dims_H = votes(weights, KNOWN[body.config.model_type])
    return Importance(
        _shares([each.values.sum(1) for each in strengths]), _shares([each.units for each in strengths]), dims_H
    )


def taylor(model: Model, batches: Iterable[Batch], loss: Loss) -> Importance:
    """Importance by |w dL/dw| summed over the weights of a part, its mean over rows: to first order the change of L.

    Molchanov et al. 2019, arXiv 1906.10771, with the absolute value in place of the square. L is the mean of
    `loss(logits, batch)` [B] over one batch: a trained model's gradients over all rows together add up to nothing.
    """
    weights, inputs = dict(model.named_parameters()), (decoder if isinstance(model, Decoder) else encoder).INPUTS
    felt = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    rows = 0
    for batch in batches:
        logits = model(**{name: batch[name] for name in inputs})
        gradients = torch.autograd.grad(loss(logits, batch).mean(), list(weights.values()), allow_unused=True)
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            if gradient is not None:
                felt[name] += len(logits) * (weight.detach() * gradient).abs()
        rows += len(logits)
    return _by_structure(model, {name: total / rows for name, total in felt.items()})


def teacher_loss(logits_BC: Tensor, batch: Batch) -> Tensor:
    """KL from the teacher's probabilities to the model's, [B]."""
    return kl(F.log_softmax(batch["teacher_logits"], dim=-1), F.log_softmax(logits_BC, dim=-1))


def _shares(strengths: list[Tensor]) -> list[Tensor]:
    """Each value as a share of the sum over all layers."""
    total = sum(float(each.sum()) for each in strengths)
    return [each / max(total, 1e-30) for each in strengths]


def _by_structure(model: Model, felt: Weights) -> Importance:
    """Sums of `felt` over each part; heads that share keys and values have equal shares of theirs."""
    at, body = body_of(model)
    config, path = body.config, f"{at}.{layers_name(body)}"
    felt, parts, heads, units = plain(config.model_type, felt), KNOWN[config.model_type], [], []
    for number, size in enumerate(sizes_of(config)):
        layer = f"{path}.{number}"
        query, key, value, widened = (
            _rows(felt, f"{layer}.{name}") for name in (parts.query, parts.key, parts.value, parts.widened)
        )
        attended, narrowed = (felt[f"{layer}.{name}.weight"].sum(0) for name in (parts.attended, parts.narrowed))
        group = size.heads // key_heads(config, size.heads)
        shared = (key + value).view(-1, size.head_size).sum(1).repeat_interleave(group) / group
        heads.append((query + attended).view(size.heads, size.head_size).sum(1) + shared)
        units.append(widened + narrowed + (_rows(felt, f"{layer}.{parts.gate}") if parts.gate else 0.0))
    dims_H = torch.zeros(config.hidden_size)
    for name, weight in felt.items():
        if (axis := dimension_axis(name, felt, parts)) is not None:
            dims_H += weight.movedim(axis, 0).flatten(1).sum(1) if weight.ndim > 1 else weight
    return Importance(heads, units, dims_H)


def _rows(felt: Weights, module: str) -> Tensor:
    """Sum over each row of a matrix, with its bias if there is one."""
    rows = felt[f"{module}.weight"].sum(1)
    return rows + felt[f"{module}.bias"] if f"{module}.bias" in felt else rows


def _batches(spec: ShrinkSpec, context: StepContext) -> Iterator[Batch]:
    """Training rows of a classifier, with the teacher's logits where the loss needs them."""
    examples, teacher_NC = context.prepared.examples("train"), None
    if spec.loss == "teacher":
        teacher_NC = context.teacher_logits(spec, INSTEAD)
    for chosen in _drawn(spec, context, examples):
        batch = collate(examples, chosen, int(examples.lengths[chosen].max()))
        if teacher_NC is not None:
            batch["teacher_logits"] = torch.from_numpy(teacher_NC[chosen].astype(np.float32))
        yield batch


def _completions(spec: ShrinkSpec, context: StepContext) -> Iterator[Batch]:
    """Training rows of a decoder, each text in a row of its own, with what the teacher says of its tokens."""
    examples = context.prepared.examples("train")
    teacher = context.teacher_tokens(spec, INSTEAD) if spec.loss == "teacher" else None
    for chosen in _drawn(spec, context, examples):
        packs = [chosen[[place]] for place in range(len(chosen))]
        batch = collate_packs(examples, packs, int(examples.lengths[chosen].max()))
        yield batch if teacher is None else batch | teacher.beside(batch["target"], packs)


def _completion_loss(spec: ShrinkSpec, context: StepContext) -> Loss:
    """The loss of a decoder's completions by row, [B]: KL from the stored tokens of the teacher, or cross-entropy."""
    if spec.loss == "labels":
        return lambda logits_BLV, batch: completion_loss(logits_BLV, batch["target"])
    draws = context.recipe.distillation.stored_draws
    kl_alone = DistillationSpec.model_validate(
        {"temperature": 1, "stored_draws": draws, "weights": {"kl": 1, "cross_entropy": 0}}
    )
    return lambda logits_BLV, batch: distill_completion_loss(
        logits_BLV, batch["target"], batch["teacher_ids"], batch["teacher_log_probs"], kl_alone
    )


def _drawn(spec: ShrinkSpec, context: StepContext, examples: Examples) -> Iterator[np.ndarray]:
    """Numbers of training rows, drawn with the recipe's seed, by batch."""
    rows = np.random.default_rng(context.recipe.seed).permutation(len(examples))[: spec.calibration_rows]
    for start in range(0, len(rows), ROWS_PER_BATCH):
        yield rows[start : start + ROWS_PER_BATCH]
