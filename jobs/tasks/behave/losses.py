"""Losses of next items, one number per row: cross-entropy over the whole catalogue, and distance from a ranked list.

With all items in the softmax a plain transformer is a better ranker than with one drawn negative (Klenitskiy and
Vasilev 2023, arXiv 2309.07602).
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from cluster.engine import Batch
from configs.schema.distillation import DistillationSpec
from jobs.training.loss import divergences, truncated


class Ranked(NamedTuple):
    """A teacher's list at each of N ends: its first K items; what is left of the probability is that of all others."""

    ids_NK: Tensor  # int64
    log_probs_NK: Tensor


def ranked_list(logits_NI: Tensor, count: int) -> Ranked:
    """The `count` likeliest items, the likeliest first; all of them where there are not so many."""
    found = F.log_softmax(logits_NI.float(), dim=-1).topk(min(count, logits_NI.shape[1]), dim=-1)
    return Ranked(found.indices, found.values)


def next_items_loss(logits_NI: Tensor, batch: Batch, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of the ends of each row, added up, [B]; the wanted items of an end are equally likely."""
    return _by_row(_label_loss(logits_NI, batch, smoothing), batch)


def distill_next_items_loss(student_NI: Tensor, batch: Batch, spec: DistillationSpec) -> Tensor:
    """Divergences from the teacher's lists `teacher_ids` and `teacher_log_probs` [N, K] and cross-entropy, weighted,
    added up over the ends of each row, [B]."""
    ids_NK, log_probs_NK = batch["teacher_ids"], batch["teacher_log_probs"].float()
    loss_N = divergences(*truncated(student_NI.float(), ids_NK, log_probs_NK, spec.temperature), spec)
    return _by_row(loss_N + spec.weights.cross_entropy * _label_loss(student_NI, batch, spec.label_smoothing), batch)


def _label_loss(logits_NI: Tensor, batch: Batch, smoothing: float) -> Tensor:
    """[N]: 0 at ends of which nothing is wanted."""
    log_q_NI = F.log_softmax(logits_NI.float(), dim=-1)
    each_P = -log_q_NI[batch["end"], batch["target"]]
    if smoothing:
        each_P = (1 - smoothing) * each_P - smoothing * log_q_NI.mean(-1)[batch["end"]]
    return log_q_NI.new_zeros(len(log_q_NI)).index_add(0, batch["end"], each_P * batch["share"])


def _by_row(loss_N: Tensor, batch: Batch) -> Tensor:
    row_N = batch["ends"].nonzero()[:, 0]
    return loss_N.new_zeros(len(batch["ends"])).index_add(0, row_N, loss_N)
