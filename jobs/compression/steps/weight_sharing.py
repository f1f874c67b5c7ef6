"""Weight sharing: the weights of a matrix come from a small codebook (Han et al. 2016, arXiv 1510.00149, section 3)."""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from configs.schema.compression import ClusterSpec
from configs.schema.distillation import HIDDEN_OBJECTIVES, Objectives
from jobs.compression.step_context import StepContext
from jobs.data.batches import collate, global_batches
from jobs.data.prepared import Examples
from jobs.models.encoder import INPUTS, EncoderClassifier
from jobs.training.loss import balanced_weights, distill_loss

SHARED = (nn.Linear, nn.Conv1d, nn.Embedding)
WEIGHTS_PER_VALUE = 8  # least number in a matrix; a smaller matrix gains nothing by a codebook
ROUNDS = 300  # most rounds of k-means; a round costs a few microseconds
Batch = dict[str, Tensor]
Loss = Callable[[Tensor, Batch], Tensor]  # logits [B, C] -> [B]

log = logging.getLogger(__name__)


@dataclass
class Codes:
    """A matrix as indices into a codebook."""

    values_K: Tensor
    index: Tensor  # int64, of the shape of the matrix
    zero: int | None  # index of the value that stays 0, of pruned weights

    @classmethod
    def of(cls, weight: Tensor, bits: int) -> Codes:
        """The nearest of at most 2^bits values for each weight; zeros, where there are any, stay zero."""
        kept = weight[weight != 0]
        pruned = len(kept) < weight.numel()
        values_K = centroids(kept, 2**bits - pruned)
        if pruned:
            values_K = torch.cat([values_K, values_K.new_zeros(1)]).sort().values
        index = torch.bucketize(weight, (values_K[1:] + values_K[:-1]) / 2)
        zero = int(torch.searchsorted(values_K, 0.0)) if pruned else None
        if zero is not None:
            index = torch.where(weight == 0, zero, index)
        return cls(values_K, index, zero)

    def weight(self) -> Tensor:
        """The matrix; its gradient at a value is the sum over the weights that take it."""
        return self.values_K.index_select(0, self.index.flatten()).view(self.index.shape)


def cluster(model: EncoderClassifier, spec: ClusterSpec, context: StepContext) -> EncoderClassifier:
    """A copy of `model` whose matrices have at most 2^bits different weights each; the head is left alone.

    Facts: matrices, and the share of their squared weights that is lost, before and after the codebooks' training.
    """
    clustered = copy.deepcopy(model).eval()
    weights = dict(_matrices(clustered, spec.bits))
    codes = {name: Codes.of(weight.detach(), spec.bits) for name, weight in weights.items()}
    facts = {"matrices": len(codes), "error_of_kmeans": _error(weights, codes)}
    if spec.steps:
        batches = _batches(context, context.teacher_logits(spec, instead="set steps=0"))
        bf16 = context.recipe.engine.precision == "bf16_autocast"
        train(clustered, codes, spec, _loss(clustered, spec, context), batches, bf16)
        facts["error"] = _error(weights, codes)
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(codes[name].weight())
    context.note(spec, **facts)
    return clustered


def centroids(values_N: Tensor, count: int) -> Tensor:
    """Lloyd's k-means of numbers, in order, [count] or as many as differ.

    The better, by squared error, of two starts is taken: spread evenly over the range (Han et al., section 3.2), which
    keeps rare large weights and spends a value on each, and spread evenly over the numbers.
    """
    distinct = values_N.unique()
    if len(distinct) <= count:
        return distinct
    sorted_N = values_N.double().sort().values
    even_K = torch.linspace(sorted_N[0].item(), sorted_N[-1].item(), count, dtype=torch.float64)
    usual_K = sorted_N[((torch.arange(count) + 0.5) / count * len(sorted_N)).long()]
    sums_N = nn.functional.pad(sorted_N.cumsum(0), (1, 0))
    _, found_K = max((_lloyd(sorted_N, sums_N, start_K) for start_K in (even_K, usual_K)), key=lambda each: each[0])
    return found_K.to(values_N.dtype)


def _lloyd(sorted_N: Tensor, sums_N: Tensor, found_K: Tensor) -> tuple[float, Tensor]:
    """(sum over values of count x mean^2, values): the squared error is the sum of all squares less the first."""
    explained = 0.0
    for _ in range(ROUNDS):
        inner = torch.searchsorted(sorted_N, (found_K[1:] + found_K[:-1]) / 2)
        starts, ends = nn.functional.pad(inner, (1, 0)), nn.functional.pad(inner, (0, 1), value=len(sorted_N))
        counts_K = ends - starts
        means_K = torch.where(counts_K > 0, (sums_N[ends] - sums_N[starts]) / counts_K, found_K)
        explained = float((counts_K * means_K**2).sum())
        if torch.equal(means_K, found_K):
            break
        found_K = means_K
    return explained, found_K


def train(
    model: nn.Module,
    codes: dict[str, Codes],
    spec: ClusterSpec,
    loss: Loss,
    batches: Iterator[Batch],
    bf16: bool = False,
) -> None:
    """Train the values of `codes` on the teacher's outputs for `batches`; indices and `model` stay as they are.

    Gradients are summed by value (Han et al., section 3.3).
    """
    values = [each.values_K.requires_grad_() for each in codes.values()]
    optimizer = torch.optim.Adam(values, spec.learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, spec.steps)
    for batch in itertools.islice(batches, spec.steps):
        tensors = {name: batch[name] for name in INPUTS}
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits_BC = functional_call(model, {name: each.weight() for name, each in codes.items()}, kwargs=tensors)
        loss(logits_BC, batch).mean().backward()
        for each in codes.values():
            if each.zero is not None:
                each.values_K.grad[each.zero] = 0  # pyright: ignore[reportOptionalSubscript]
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    for each in codes.values():
        each.values_K.requires_grad_(False)


def _loss(model: EncoderClassifier, spec: ClusterSpec, context: StepContext) -> Loss:
    """The loss of the student's last epoch on logits; KL from the teacher where it compared hidden states alone."""
    recipe, labels = context.recipe, context.prepared.labels
    last = recipe.distillation.during(recipe.distillation.epochs - 1)
    if not any(weight for name, weight in last.weights if name not in HIDDEN_OBJECTIVES):
        log.warning("step %s: distillation.weights compare no logits; the codebooks learn by the KL alone", spec.title)
        last = last.model_copy(update={"weights": Objectives(kl=1.0)})
    graded, weight_C = not isinstance(model.classes, int), None
    if last.class_weights == "balanced":
        weight_C = balanced_weights(context.prepared.examples("train").labels, len(labels))
    return lambda logits_BC, batch: distill_loss(
        logits_BC, batch["teacher_logits"], batch["label"], last, weight_C, graded
    )


def _matrices(model: nn.Module, bits: int) -> Iterator[tuple[str, nn.Parameter]]:
    for name, layer in model.named_modules():
        large = isinstance(layer, SHARED) and layer.weight.numel() >= WEIGHTS_PER_VALUE * 2**bits
        if large and name.split(".")[0] != "head":
            yield f"{name}.weight", layer.weight  # pyright: ignore[reportReturnType] - every one of `SHARED` has it


def _error(weights: dict[str, nn.Parameter], codes: dict[str, Codes]) -> float:
    lost = sum(float((weight.detach() - codes[name].weight()).square().sum()) for name, weight in weights.items())
    return lost / sum(float(weight.detach().square().sum()) for weight in weights.values())


def _batches(context: StepContext, teacher_NC: np.ndarray) -> Iterator[Batch]:
    """Batches of the training rows with the teacher's logits, epoch after epoch, without end."""
    examples: Examples = context.prepared.examples("train")
    recipe, lengths = context.recipe, examples.lengths
    for epoch in itertools.count():
        for rows in global_batches(lengths, recipe.seed, epoch, recipe.engine.tokens_per_batch):
            logits_BC = torch.from_numpy(teacher_NC[rows].astype(np.float32))
            yield collate(examples, rows, int(lengths[rows].max())) | {"teacher_logits": logits_BC}
