from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import jensenshannon

from jobs.data.batches import NO_TARGET
from jobs.training.loss import (
    balanced_weights,
    distill_loss,
    grade_loss,
    jensen_shannon,
    kl,
    label_loss,
)
from tests.jobs.training.losses import LABELS, divergences_by_formula, drawn, logits, softmax, spec


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_student_equal_to_the_teacher_pays_only_the_label_loss(temperature: float):
    logits_BC = logits()
    loss_B = distill_loss(logits_BC, logits_BC, LABELS, spec(0.75, 0.25, temperature))
    torch.testing.assert_close(loss_B, 0.25 * F.cross_entropy(logits_BC, LABELS, reduction="none"))


def test_logits_count_only_up_to_a_constant():
    student_BC, teacher_BC = logits(seed=0), logits(seed=1)
    loss_B = distill_loss(student_BC + 7, teacher_BC - 3, LABELS, spec(0.5, 0.5, 2.0))
    torch.testing.assert_close(loss_B, distill_loss(student_BC, teacher_BC, LABELS, spec(0.5, 0.5, 2.0)))


def test_a_number_worked_out_by_hand():
    """Teacher 3:1, student 1:1 at temperature 2; label 1."""
    teacher_BC = torch.tensor([[2 * math.log(3), 0.0]])
    student_BC = torch.zeros(1, 2)
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    loss_B = distill_loss(student_BC, teacher_BC, torch.tensor([1]), spec(0.9, 0.1, 2.0))
    assert loss_B.tolist() == pytest.approx([0.9 * 4 * kl + 0.1 * math.log(2)])


def test_the_divergence_is_from_the_teacher_to_the_student():
    teacher_BC, student_BC = torch.tensor([[5.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.5, 0.0]])
    teacher_C, student_C = (torch.softmax(each[0], -1) for each in (teacher_BC, student_BC))
    expected = float((teacher_C * (teacher_C / student_C).log()).sum())
    assert distill_loss(student_BC, teacher_BC, torch.tensor([0]), spec()).tolist() == pytest.approx([expected])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_jensen_shannon_is_what_scipy_and_its_definition_say(share: float):
    log_p, log_q = (F.log_softmax(logits(seed=seed).double(), dim=-1) for seed in (0, 1))
    p, q = log_p.exp(), log_q.exp()
    mixture = share * p + (1 - share) * q
    expected_N = (share * p * (p / mixture).log() + (1 - share) * q * (q / mixture).log()).sum(-1)
    torch.testing.assert_close(jensen_shannon(log_p, log_q, share), expected_N)
    if share == 0.5:
        assert expected_N.sqrt().tolist() == pytest.approx([jensenshannon(*rows) for rows in zip(p, q, strict=True)])


def test_jensen_shannon_leans_to_either_divergence():
    """Agarwal et al. 2024, section 3: divided by its share, at both ends."""
    log_p, log_q = (F.log_softmax(logits(seed=seed).double(), dim=-1) for seed in (0, 1))
    torch.testing.assert_close(jensen_shannon(log_p, log_q, 1e-6) / 1e-6, kl(log_p, log_q), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(jensen_shannon(log_p, log_q, 1 - 1e-6) / 1e-6, kl(log_q, log_p), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("term", ["kl", "reverse_kl", "jensen_shannon"])
def test_terms_add_up_by_their_weights_and_pull_towards_the_teacher(term: str):
    student_BC, teacher_BC = logits(seed=0).requires_grad_(), logits(seed=1)
    calm: dict[str, float] = {"kl": 0.0, "temperature": 2.0}
    alone, both = spec(**calm | {term: 1.0}), spec(**calm | {term: 3.0, "cross_entropy": 0.5})
    alone_B = distill_loss(student_BC, teacher_BC, LABELS, alone)
    both_B = distill_loss(student_BC, teacher_BC, LABELS, both)
    torch.testing.assert_close(both_B, 3 * alone_B + 0.5 * label_loss(student_BC, LABELS))
    alone_B.sum().backward()
    assert student_BC.grad is not None
    nearer_BC = student_BC.detach() - 0.01 * student_BC.grad
    assert (distill_loss(nearer_BC, teacher_BC, LABELS, alone) < alone_B).all()
    torch.testing.assert_close(distill_loss(teacher_BC, teacher_BC, LABELS, alone), torch.zeros(6))


@pytest.mark.parametrize("seed", range(7))
def test_all_terms_of_a_classifier_together_are_the_formula(seed: int):
    student_BC, teacher_BC, weight_C, given = logits(seed=seed), logits(seed=99), torch.rand(4) + 0.5, drawn(seed)
    expected = []
    for student, teacher, label in zip(student_BC.numpy(), teacher_BC.numpy(), LABELS.tolist(), strict=True):
        target = np.full(4, given.label_smoothing / 4)
        target[label] += 1 - given.label_smoothing
        own = -(target * np.log(softmax(student))).sum() * float(weight_C[label])
        expected.append(divergences_by_formula(student, teacher, given) + given.weights.cross_entropy * own)
    found_B = distill_loss(student_BC, teacher_BC, LABELS, given, weight_C)
    assert found_B.tolist() == pytest.approx(expected, rel=1e-4)


def test_reverse_kl_weighs_by_the_student():
    log_p, log_q = (F.log_softmax(logits(seed=seed), dim=-1) for seed in (1, 0))
    found_B = distill_loss(logits(seed=0), logits(seed=1), LABELS, spec(kl=0.0, reverse_kl=1.0))
    torch.testing.assert_close(found_B, (log_q.exp() * (log_q - log_p)).sum(-1))


def test_the_loss_of_an_example_does_not_depend_on_the_others():
    student_BC, teacher_BC = logits(seed=0), logits(seed=1)
    for compute in (
        lambda rows: label_loss(student_BC[rows], LABELS[rows]),
        lambda rows: distill_loss(student_BC[rows], teacher_BC[rows], LABELS[rows], spec(0.9, 0.1, 4.0)),
    ):
        whole_B = compute(slice(None))
        assert whole_B.shape == (6,)
        parts = [compute(slice(0, 1)), compute(slice(1, 4)), compute(slice(4, 6))]
        torch.testing.assert_close(torch.cat(parts), whole_B)


def test_the_gradient_keeps_its_size_as_the_temperature_rises():
    """Towards high temperatures it is (student - teacher) / C of centred logits (Hinton et al. 2015, equation 4)."""
    student_BC, teacher_BC = logits(seed=0).double(), logits(seed=1).double()
    student_BC -= student_BC.mean(-1, keepdim=True)
    teacher_BC -= teacher_BC.mean(-1, keepdim=True)
    student_BC.requires_grad_()
    distill_loss(student_BC, teacher_BC, LABELS, spec(temperature=1000.0)).sum().backward()
    assert student_BC.grad is not None
    expected_BC = (student_BC.detach() - teacher_BC) / 4
    torch.testing.assert_close(student_BC.grad.double(), expected_BC, rtol=0.01, atol=1e-2)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_gradient_is_temperature_times_the_difference_of_the_softened_distributions(temperature: float):
    student_BC, teacher_BC = logits(seed=0).requires_grad_(), logits(seed=1)
    distill_loss(student_BC, teacher_BC, LABELS, spec(temperature=temperature)).sum().backward()
    ours_BC, theirs_BC = (torch.softmax(each.detach() / temperature, -1) for each in (student_BC, teacher_BC))
    torch.testing.assert_close(student_BC.grad, temperature * (ours_BC - theirs_BC), rtol=1e-4, atol=1e-6)


def test_half_precision_logits_are_computed_in_float32():
    student_BC, teacher_BC = logits(seed=0).bfloat16(), logits(seed=1).half()
    loss_B = distill_loss(student_BC, teacher_BC, LABELS, spec(0.9, 0.1, 4.0))
    assert loss_B.dtype == torch.float32
    torch.testing.assert_close(
        loss_B, distill_loss(student_BC.float(), teacher_BC.float(), LABELS, spec(0.9, 0.1, 4.0)), rtol=0, atol=0
    )


def test_a_certain_teacher_and_a_certain_wrong_student_cost_a_finite_loss():
    loss_B = distill_loss(torch.tensor([[200.0, -200.0]]), torch.tensor([[-200.0, 200.0]]), LABELS[:1], spec(1, 1, 1.0))
    assert torch.isfinite(loss_B).all()
    others = spec(0.0, reverse_kl=1.0, jensen_shannon=1.0)
    loss_B = distill_loss(torch.tensor([[200.0, -200.0]]), torch.tensor([[-200.0, 200.0]]), LABELS[:1], others)
    assert torch.isfinite(loss_B).all()


def test_smoothed_labels_are_a_mixture_of_the_label_and_all_classes():
    logits_BC, smoothing = logits(), 0.2
    target_BC = (1 - smoothing) * F.one_hot(LABELS, 4) + smoothing / 4
    expected_B = -(target_BC * F.log_softmax(logits_BC, dim=-1)).sum(-1)
    torch.testing.assert_close(label_loss(logits_BC, LABELS, smoothing), expected_B)


def test_balanced_classes_weigh_alike_and_one_example_in_the_mean():
    labels = np.array([0] * 6 + [1] * 3 + [3])
    weight_C = balanced_weights(labels, 4)
    weight_N = weight_C.numpy()[labels]
    assert weight_N.mean() == pytest.approx(1)
    assert [weight_N[labels == each].sum() for each in (0, 1, 3)] == pytest.approx([10 / 3] * 3)
    assert torch.equal(balanced_weights(np.append(labels, [NO_TARGET] * 5), 4), weight_C)


def test_an_example_of_a_rare_class_counts_more_in_teacher_and_student():
    weight_C = torch.tensor([1.0, 1.0, 1.0, 5.0])
    logits_BC = logits()
    plain_B, weighted_B = label_loss(logits_BC, LABELS), label_loss(logits_BC, LABELS, weight_C=weight_C)
    torch.testing.assert_close(weighted_B / plain_B, weight_C[LABELS])
    only_labels = spec(0.0, 1.0)
    torch.testing.assert_close(distill_loss(logits_BC, logits_BC, LABELS, only_labels, weight_C), weighted_B)


@pytest.mark.parametrize("graded", [False, True])
def test_an_example_without_a_label_costs_its_divergence_alone(graded: bool):
    student_BC, teacher_BC, weight_C = logits(seed=0), logits(seed=1), torch.tensor([1.0, 2.0, 3.0, 4.0])
    mixed = spec(0.7, 0.3, 2.0).model_copy(update={"label_smoothing": 0.0 if graded else 0.2})
    label_B = torch.where(torch.arange(6) < 4, LABELS, NO_TARGET)
    known_B, whole_B, alone_B = (
        distill_loss(student_BC, teacher_BC, labels, chosen, weight_C, graded)
        for labels, chosen in ((label_B, mixed), (LABELS, mixed), (LABELS, spec(0.7, 0.0, 2.0)))
    )
    torch.testing.assert_close(known_B, torch.cat([whole_B[:4], alone_B[4:]]))
    student_BC.requires_grad_()
    label_loss(student_BC, label_B, 0.2, weight_C).sum().backward()
    assert student_BC.grad is not None
    assert not student_BC.grad[4:].any()
    assert student_BC.grad[:4].abs().sum(1).all()


def test_the_loss_of_a_grade_is_the_squared_error_of_the_score():
    score_B, grades_C = torch.tensor([0.5, 2.0, 3.5]), torch.tensor([1.0, 2.0, 4.0])
    label_B = torch.tensor([0, 2, 2])
    logits_BC = -((score_B[:, None] - grades_C) ** 2)
    torch.testing.assert_close(grade_loss(logits_BC, label_B), (score_B - grades_C[label_B]) ** 2)
    torch.testing.assert_close(
        distill_loss(logits_BC, logits_BC, label_B, spec(0.5, 0.5, 2.0), graded=True),
        0.5 * (score_B - grades_C[label_B]) ** 2,
    )
