from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from configs.schema.distillation import DistillationSpec
from jobs.data.batches import NO_TARGET
from jobs.training.loss import (
    completion_loss,
    distill_completion_loss,
    kl,
    truncated,
)
from tests.jobs.training.losses import divergences_by_formula, drawn, logits, softmax, spec


def truncated_kl(student_NV: Tensor, ids_NK: Tensor, log_probs_NK: Tensor, temperature: float) -> Tensor:
    log_q, log_p = truncated(student_NV, ids_NK, log_probs_NK, temperature)
    return kl(log_p, log_q)


@pytest.mark.parametrize("stored", [1, 6, 7], ids=["one token", "all but one", "all"])
@pytest.mark.parametrize("seed", range(7))
def test_all_terms_of_a_decoder_together_are_the_formula(seed: int, stored: int):
    """The tokens that are not stored are one: the student's rest, and the teacher's as if it were spread evenly."""
    given, tokens = drawn(seed), 7
    student_BLV = logits(6, tokens, seed=seed).reshape(2, 3, tokens)
    teacher_BLV = logits(6, tokens, seed=99).reshape(2, 3, tokens)
    target_BL = torch.tensor([[NO_TARGET, 4, 0], [6, NO_TARGET, 2]])
    best = F.log_softmax(teacher_BLV, dim=-1).topk(stored)
    expected = np.zeros(2)
    for row, place in (target_BL != NO_TARGET).nonzero().tolist():
        student, teacher = (each[row, place].double().numpy() for each in (student_BLV, teacher_BLV))
        known, others = best.indices[row, place].numpy(), tokens - stored
        p, q = softmax(teacher), softmax(student, given.temperature)
        teacher, student = np.log(p[known]), np.log(q[known]) * given.temperature
        if others:
            each = (1 - p[known].sum()) / others
            teacher = np.append(teacher, np.log(each) + given.temperature * np.log(others))
            student = np.append(student, np.log(1 - q[known].sum()) * given.temperature)
        target = np.full(tokens, given.label_smoothing / tokens)
        target[int(target_BL[row, place])] += 1 - given.label_smoothing
        own = -(target * np.log(softmax(student_BLV[row, place].numpy()))).sum()
        expected[row] += divergences_by_formula(student, teacher, given) + given.weights.cross_entropy * own
    found_B = distill_completion_loss(student_BLV, target_BL, best.indices, best.values, given)
    assert found_B.tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_drawn_tokens_and_the_cross_entropy_are_the_formula():
    fields = {"stored_draws": 2, "temperature": 1.0, "weights": {"kl": 0.7, "cross_entropy": 0.4}}
    given = DistillationSpec.model_validate(fields | {"label_smoothing": 0.1})
    student_BLV, target_BL = logits(2, 5).reshape(1, 2, 5), torch.tensor([[3, 0]])
    ids_BLK, log_probs_BLK = torch.tensor([[[3, 1], [0, 4]]]), torch.tensor([[[-0.3, -1.5], [-0.2, -2.0]]])
    expected = 0.0
    for place, label in enumerate(target_BL[0].tolist()):
        log_q = np.log(softmax(student_BLV[0, place].numpy()))
        target = np.full(5, 0.1 / 5)
        target[label] += 0.9
        for token, log_p in zip(ids_BLK[0, place].tolist(), log_probs_BLK[0, place].tolist(), strict=True):
            expected += 0.7 * math.exp(log_p) * (log_p - log_q[token])
        expected -= 0.4 * (target * log_q).sum()
    found_B = distill_completion_loss(student_BLV, target_BL, ids_BLK, log_probs_BLK, given)
    assert found_B.tolist() == pytest.approx([expected], rel=1e-4)


def test_a_completions_loss_is_the_cross_entropy_of_its_tokens_by_row():
    logits_BLV = logits(12, 7).reshape(3, 4, 7).requires_grad_()
    target_BL = torch.tensor([[NO_TARGET, 2, 3, NO_TARGET], [NO_TARGET] * 4, [1, 1, 1, 1]])
    loss_B = completion_loss(logits_BLV, target_BL)
    expected = [
        F.cross_entropy(logits_BLV[0, 1:3], target_BL[0, 1:3], reduction="sum"),
        torch.tensor(0.0),
        F.cross_entropy(logits_BLV[2], target_BL[2], reduction="sum"),
    ]
    torch.testing.assert_close(loss_B, torch.stack(expected))
    loss_B.sum().backward()
    assert logits_BLV.grad is not None
    assert not logits_BLV.grad[1].any()


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_with_all_tokens_stored_the_kl_is_the_whole_one(temperature: float):
    student_NV, teacher_NV = logits(5, 9, seed=0), logits(5, 9, seed=1)
    best = F.log_softmax(teacher_NV, dim=-1).topk(9)
    log_q_NV, log_p_NV = (F.log_softmax(each / temperature, dim=-1) for each in (student_NV, teacher_NV))
    whole_N = F.kl_div(log_q_NV, log_p_NV, reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(truncated_kl(student_NV, best.indices, best.values, temperature), whole_N)


def test_with_few_tokens_stored_the_kl_is_a_lower_bound_that_more_tokens_raise():
    student_NV, teacher_NV = logits(50, 30, seed=0), logits(50, 30, seed=1)
    log_p_NV = F.log_softmax(teacher_NV, dim=-1)
    best = [log_p_NV.topk(stored) for stored in (1, 5, 20, 30)]
    found = [truncated_kl(student_NV, each.indices, each.values, 1.0) for each in best]
    for fewer_N, more_N in itertools.pairwise(found):
        assert (fewer_N <= more_N + 1e-5).all()
    assert (found[0] >= 0).all()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("stored", [3, 20])
def test_a_student_that_says_what_the_teacher_says_has_no_kl(stored: int, temperature: float):
    teacher_NV = torch.cat([logits(6, 3), torch.full((6, 17), -2.0)], dim=1)  # an even rest, as it is taken to be
    log_p = F.log_softmax(teacher_NV, dim=-1).topk(stored)
    kl_N = truncated_kl(teacher_NV + 5, log_p.indices, log_p.values, temperature)
    torch.testing.assert_close(kl_N, torch.zeros(6), atol=1e-5, rtol=0)


def test_distillation_of_completions_weighs_kl_and_cross_entropy_at_the_targets():
    student_BLV, target_BL = logits(8, 6).reshape(2, 4, 6), torch.tensor([[1, 2, NO_TARGET, 0], [NO_TARGET] * 4])
    best = F.log_softmax(logits(8, 6, seed=1).reshape(2, 4, 6), dim=-1).topk(4)
    loss_B = distill_completion_loss(student_BLV, target_BL, best.indices, best.values, spec(0.75, 0.25, 2.0))
    kl_N = truncated_kl(student_BLV[0, [0, 1, 3]], best.indices[0, [0, 1, 3]], best.values[0, [0, 1, 3]], 2.0)
    expected = 0.75 * 4 * kl_N.sum() + 0.25 * completion_loss(student_BLV, target_BL)[0]
    torch.testing.assert_close(loss_B, torch.stack([expected, torch.tensor(0.0)]))
