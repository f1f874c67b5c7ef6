"""Losses: one number per example, so that any split of a batch adds up to the same."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from configs.schema.distillation import DistillationSpec
from jobs.data.batches import NO_TARGET
from jobs.models.hidden_states import HiddenStates


def label_loss(
    logits_BC: Tensor,
    label_B: Tensor,
    smoothing: float = 0.0,
    weight_C: Tensor | None = None,
    graded: bool = False,
) -> Tensor:
    """Cross-entropy of each example (`grade_loss` where `graded`), [B], times the weight of its class in `weight_C`.

    It is 0 without a label (`NO_TARGET`). Label smoothing: Szegedy et al. 2016, arXiv 1512.00567, section 7.
    """
    known_B, label_B = label_B != NO_TARGET, label_B.clamp(min=0)
    if graded:
        loss_B = grade_loss(logits_BC, label_B)
    else:
        loss_B = F.cross_entropy(logits_BC.float(), label_B, reduction="none", label_smoothing=smoothing)
    loss_B = loss_B.masked_fill(~known_B, 0.0)
    return loss_B if weight_C is None else loss_B * weight_C.to(loss_B.device)[label_B]


def grade_loss(logits_BC: Tensor, label_B: Tensor) -> Tensor:
    """Squared error of the score of a `GradeHead`, [B]."""
    return -logits_BC.float().gather(1, label_B.unsqueeze(1)).squeeze(1)


def balanced_weights(labels: np.ndarray, classes: int) -> Tensor:
    """Weights [C] in inverse proportion to the frequency of a class; their mean over the known `labels` of N is 1.

    King and Zeng 2001, Logistic Regression in Rare Events Data; the `balanced` of scikit-learn.
    """
    labels = labels[labels != NO_TARGET]
    counts = np.bincount(labels, minlength=classes)
    return torch.from_numpy(len(labels) / ((counts > 0).sum() * np.maximum(counts, 1))).float()


def distill_loss(
    student_BC: Tensor,
    teacher_BC: Tensor,
    label_B: Tensor,
    spec: DistillationSpec,
    weight_C: Tensor | None = None,
    graded: bool = False,
) -> Tensor:
    """Divergences from the teacher plus cross-entropy (squared error where `graded`), weighted, [B]."""
    log_q_BC, log_p_BC = (F.log_softmax(each.float() / spec.temperature, dim=-1) for each in (student_BC, teacher_BC))
    label_loss_B = label_loss(student_BC, label_B, spec.label_smoothing, weight_C, graded)
    return divergences(log_q_BC, log_p_BC, spec) + spec.weights.cross_entropy * label_loss_B


def divergences(log_q_NC: Tensor, log_p_NC: Tensor, spec: DistillationSpec) -> Tensor:
    """T^2 times the weighted divergences of softened log-probabilities of the student (q) and the teacher (p), [N].

    Hinton, Vinyals, Dean 2015 (arXiv 1503.02531): T^2 keeps the gradient's size as T changes.
    """
    weights, total_N = spec.weights, log_q_NC.new_zeros(len(log_q_NC))
    if weights.kl:
        total_N = total_N + weights.kl * kl(log_p_NC, log_q_NC)
    if weights.reverse_kl:
        total_N = total_N + weights.reverse_kl * kl(log_q_NC, log_p_NC)
    if weights.jensen_shannon:
        total_N = total_N + weights.jensen_shannon * jensen_shannon(log_p_NC, log_q_NC, spec.teacher_share)
    return total_N * spec.temperature**2


def hidden_states_loss(seen: HiddenStates, batch: dict[str, Tensor], spec: DistillationSpec) -> Tensor:
    """Weighted differences of hidden states: token vectors, relations of attention, cosine of the last vectors, [B].

    `batch` holds the teacher's, side by side: `teacher_hidden` [B, L, K H] in the order of `seen.hidden`, and
    `teacher_relations` [B, L, 3 H].
    """
    weights, mask_BL = spec.weights, batch["attention_mask"]
    total_B = seen.logits_BC.new_zeros(len(mask_BL), dtype=torch.float32)
    if weights.hidden or weights.cosine:
        taught = list(zip(seen.hidden, batch["teacher_hidden"].chunk(len(seen.hidden), dim=-1), strict=True))
        compared = taught[: len(spec.hidden_layers)] if weights.hidden else []
        for student_BLH, teacher_BLH in compared:
            total_B = total_B + weights.hidden / len(compared) * hidden_loss(student_BLH, teacher_BLH, mask_BL)
        if weights.cosine:
            total_B = total_B + weights.cosine * cosine_loss(*taught[-1], mask_BL)
    if weights.relations:
        for student_BLH, teacher_BLH in zip(seen.relations, batch["teacher_relations"].chunk(3, dim=-1), strict=True):
            loss_B = relation_loss(student_BLH, teacher_BLH, mask_BL, spec.relation_heads)
            total_B = total_B + weights.relations / 3 * loss_B
    return total_B


def hidden_loss(student_BLH: Tensor, teacher_BLH: Tensor, mask_BL: Tensor) -> Tensor:
    """Mean squared error over the entries of real tokens' vectors, [B].

    Sun et al. 2019 (PKD, arXiv 1908.09355) and Jiao et al. 2020 (TinyBERT, arXiv 1909.10351, equation 8).
    """
    return _over_tokens(((student_BLH.float() - teacher_BLH.float()) ** 2).mean(-1), mask_BL)


def cosine_loss(student_BLH: Tensor, teacher_BLH: Tensor, mask_BL: Tensor) -> Tensor:
    """Mean of 1 - cosine of real tokens' vectors, [B] (Sanh et al. 2019, DistilBERT, arXiv 1910.01108)."""
    return _over_tokens(1 - F.cosine_similarity(student_BLH.float(), teacher_BLH.float(), dim=-1), mask_BL)


def relation_loss(student_BLH: Tensor, teacher_BLH: Tensor, mask_BL: Tensor, heads: int) -> Tensor:
    """KL from the teacher's relations to the student's, mean over heads and real tokens, [B].

    The relation of a token to all tokens is the softmax of the scaled products of their vectors, cut into `heads`
    parts; the two models may be of different width (Wang et al. 2021, MiniLM v2, arXiv 2012.15828, equations 2 to 5).
    """
    log_p_BALL, log_q_BALL = (_relations(each, mask_BL, heads) for each in (teacher_BLH, student_BLH))
    # No token attends to a padded one, whose log-probabilities mean nothing.
    pair_BALL = (log_p_BALL.exp() * (log_p_BALL - log_q_BALL)).masked_fill(~mask_BL.bool()[:, None, None, :], 0.0)
    return _over_tokens(pair_BALL.sum(-1).mean(1), mask_BL)


def _relations(vectors_BLH: Tensor, mask_BL: Tensor, heads: int) -> Tensor:
    parts_BALd = vectors_BLH.float().unflatten(-1, (heads, -1)).transpose(1, 2)
    products_BALL = parts_BALd @ parts_BALd.transpose(-1, -2) / math.sqrt(parts_BALd.shape[-1])
    lowest = torch.finfo(torch.float32).min
    return F.log_softmax(products_BALL.masked_fill(~mask_BL.bool()[:, None, None, :], lowest), dim=-1)


def _over_tokens(loss_BL: Tensor, mask_BL: Tensor) -> Tensor:
    real_BL = mask_BL.to(loss_BL.dtype)
    return (loss_BL * real_BL).sum(1) / real_BL.sum(1)


def kl(log_p_NC: Tensor, log_q_NC: Tensor) -> Tensor:
    """KL(p || q) of log-probabilities, [N]."""
    return F.kl_div(log_q_NC, log_p_NC, reduction="none", log_target=True).sum(-1)


def jensen_shannon(log_p_NC: Tensor, log_q_NC: Tensor, share: float) -> Tensor:
    """share KL(p || m) + (1 - share) KL(q || m) with m = share p + (1 - share) q, of log-probabilities, [N].

    Agarwal et al. 2024 (GKD, arXiv 2306.13649, equation 1): it leans to KL(p || q) towards share 0, and to the reverse
    towards share 1.
    """
    log_m_NC = torch.logaddexp(log_p_NC + math.log(share), log_q_NC + math.log1p(-share))
    return share * kl(log_p_NC, log_m_NC) + (1 - share) * kl(log_q_NC, log_m_NC)


def completion_loss(logits_BLV: Tensor, target_BL: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of the tokens to generate, added up over each row, [B]."""
    logits_NV, target_N = at_targets(logits_BLV, target_BL)
    return _by_row(F.cross_entropy(logits_NV, target_N, reduction="none", label_smoothing=smoothing), target_BL)


def distill_completion_loss(
    student_BLV: Tensor, target_BL: Tensor, ids_BLK: Tensor, log_probs_BLK: Tensor, spec: DistillationSpec
) -> Tensor:
    """Divergences from the teacher and cross-entropy, weighted, added up over each row's tokens, [B].

    Token-level distillation: Kim and Rush 2016, arXiv 1606.07947, section 3.1.
    """
    student_NV, target_N = at_targets(student_BLV, target_BL)
    wanted_BL = target_BL != NO_TARGET
    ids_NK, log_probs_NK = ids_BLK[wanted_BL], log_probs_BLK[wanted_BL].float()
    if spec.stored_draws:
        loss_N = spec.weights.kl * sampled_kl(student_NV, ids_NK, log_probs_NK)
    else:
        loss_N = divergences(*truncated(student_NV, ids_NK, log_probs_NK, spec.temperature), spec)
    label_loss_N = F.cross_entropy(student_NV, target_N, reduction="none", label_smoothing=spec.label_smoothing)
    return _by_row(loss_N + spec.weights.cross_entropy * label_loss_N, target_BL)


def own_completion_loss(student_BLV: Tensor, target_BL: Tensor, teacher_NV: Tensor, spec: DistillationSpec) -> Tensor:
    """Divergences at the tokens that the student wrote itself, added up over each row, [B]; no text is right there.

    Agarwal et al. 2024 (GKD, arXiv 2306.13649, equation 4). `teacher_NV` are the logits of the tokens that there are.
    """
    student_NV, _ = at_targets(student_BLV, target_BL)
    log_q_NV, log_p_NV = (
        F.log_softmax(each.float() / spec.temperature, dim=-1)
        for each in (student_NV[:, : teacher_NV.shape[1]], teacher_NV)
    )
    return _by_row(divergences(log_q_NV, log_p_NV, spec), target_BL)


def sampled_kl(student_NV: Tensor, ids_NK: Tensor, log_probs_NK: Tensor) -> Tensor:
    """KL from the teacher over the tokens that `teaching.sampled` stored, up to a constant of its draws, [N].

    Its gradient has the same expectation as the gradient of the KL over all tokens.
    """
    log_q_NK = F.log_softmax(student_NV, dim=-1).gather(1, ids_NK)
    return (log_probs_NK.exp() * (log_probs_NK - log_q_NK)).sum(-1)


def truncated(student_NV: Tensor, ids_NK: Tensor, log_probs_NK: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Softened log-probabilities of student and teacher over the teacher's K likeliest tokens and one more, [N, K + 1].

    The last one is all other tokens together, so a divergence at temperature 1 is a lower bound of the divergence over
    all tokens, and least where the student equals the teacher; at other temperatures the teacher's rest is taken to be
    spread evenly over the others. There are no others where K = V: [N, V].
    """
    others = student_NV.shape[1] - ids_NK.shape[1]
    log_q_NK = F.log_softmax(student_NV / temperature, dim=-1).gather(1, ids_NK)
    log_p_NK = log_probs_NK / temperature
    if others:
        each_N1 = _log_rest(log_probs_NK) - math.log(others)
        log_p_NK = torch.cat([log_p_NK, each_N1 / temperature + math.log(others)], dim=1)
        log_q_NK = torch.cat([log_q_NK, _log_rest(log_q_NK)], dim=1)
    return log_q_NK, F.log_softmax(log_p_NK, dim=-1)


def at_targets(logits_BLV: Tensor, target_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Float32 logits [N, V] at the tokens to generate, and these tokens [N]."""
    wanted_BL = target_BL != NO_TARGET
    return logits_BLV[wanted_BL].float(), target_BL[wanted_BL]


def _log_rest(log_probs_NK: Tensor) -> Tensor:
    """Log of 1 less the sum of the probabilities, [N, 1]; at least of a millionth."""
    return torch.log1p(-log_probs_NK.exp().sum(1, keepdim=True).clamp(max=1 - 1e-6))


def _by_row(loss_N: Tensor, target_BL: Tensor) -> Tensor:
    row_N = (target_BL != NO_TARGET).nonzero()[:, 0]
    return loss_N.new_zeros(len(target_BL)).index_add(0, row_N, loss_N)
