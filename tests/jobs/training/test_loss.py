from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import jensenshannon
from torch import Tensor

from configs.schema.distillation import DistillationSpec
from jobs.data.batches import NO_TARGET
from jobs.models.inside import Inside
from jobs.training.loss import (
    balanced_weights,
    completion_loss,
    cosine_loss,
    distill_completion_loss,
    distill_loss,
    grade_loss,
    hidden_loss,
    inside_loss,
    jensen_shannon,
    kl,
    label_loss,
    relation_loss,
    truncated,
)


def spec(kl: float = 1.0, cross_entropy: float = 0.0, temperature: float = 1.0, **others: float) -> DistillationSpec:
    weights = {"kl": kl, "cross_entropy": cross_entropy} | others
    return DistillationSpec.model_validate({"temperature": temperature, "weights": weights})


def truncated_kl(student_NV: Tensor, ids_NK: Tensor, log_probs_NK: Tensor, temperature: float) -> Tensor:
    log_q, log_p = truncated(student_NV, ids_NK, log_probs_NK, temperature)
    return kl(log_p, log_q)


def logits(rows: int = 6, classes: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed)) * 2


LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


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


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Of one row, in float64 and without torch."""
    powers = np.exp(logits.astype(np.float64) / temperature)
    return powers / powers.sum()


def divergences_by_formula(student: np.ndarray, teacher: np.ndarray, given: DistillationSpec) -> float:
    """T^2 (w1 KL(p || q) + w2 KL(q || p) + w3 (a KL(p || m) + (1 - a) KL(q || m))) of one row, m = a p + (1 - a) q."""
    p, q, share = softmax(teacher, given.temperature), softmax(student, given.temperature), given.teacher_share
    m, weights = share * p + (1 - share) * q, given.weights
    total = weights.kl * (p * np.log(p / q)).sum() + weights.reverse_kl * (q * np.log(q / p)).sum()
    total += weights.jensen_shannon * share * (p * np.log(p / m)).sum()
    total += weights.jensen_shannon * (1 - share) * (q * np.log(q / m)).sum()
    return given.temperature**2 * total


def drawn(seed: int) -> DistillationSpec:
    """All terms of logits at once, each by a weight of its own; the last seeds leave out one of them."""
    chance = np.random.default_rng(seed)
    names = ("kl", "reverse_kl", "jensen_shannon", "cross_entropy")
    weights = dict(zip(names, chance.uniform(0.2, 2.0, 4).tolist(), strict=True))
    if seed >= 3:
        weights[names[seed - 3]] = 0.0
    fields = {"temperature": chance.uniform(0.5, 5.0), "teacher_share": chance.uniform(0.1, 0.9), "weights": weights}
    return DistillationSpec.model_validate(fields | {"label_smoothing": chance.uniform(0.0, 0.3)})


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


MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


def vectors(width: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(2, 4, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tokens(row: int) -> int:
    return int(MASK[row].sum())


def test_the_error_of_hidden_states_is_a_mean_over_real_tokens():
    student_BLH, teacher_BLH = vectors(seed=0), vectors(seed=1)
    expected = [
        float(((student_BLH[row, : tokens(row)] - teacher_BLH[row, : tokens(row)]) ** 2).mean()) for row in range(2)
    ]
    assert hidden_loss(student_BLH, teacher_BLH, MASK).tolist() == pytest.approx(expected, rel=1e-5)


def test_the_cosine_is_that_of_real_tokens():
    student_BLH, teacher_BLH = vectors(seed=0), vectors(seed=1)
    expected = []
    for row in range(2):
        pairs = list(zip(student_BLH[row, : tokens(row)], teacher_BLH[row, : tokens(row)], strict=True))
        expected.append(sum(1 - float(one @ two / (one.norm() * two.norm())) for one, two in pairs) / len(pairs))
    assert cosine_loss(student_BLH, teacher_BLH, MASK).tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("width", [8, 4])
def test_relations_are_compared_head_by_head_and_token_by_token(width: int):
    """A student of another width too; plain loops over equations 2 to 5 of MiniLM v2."""
    heads, student_BLH, teacher_BLH = 2, vectors(width, seed=0), vectors(8, seed=1)
    expected = []
    for row in range(2):
        count, total = tokens(row), 0.0
        for head, token in itertools.product(range(heads), range(count)):
            rows = []
            for each in (teacher_BLH[row, :count], student_BLH[row, :count]):
                size = each.shape[1] // heads
                part = each[:, head * size : (head + 1) * size]
                rows.append(torch.softmax(part[token] @ part.T / math.sqrt(size), dim=-1))
            total += float((rows[0] * (rows[0] / rows[1]).log()).sum())
        expected.append(total / heads / count)
    assert relation_loss(student_BLH, teacher_BLH, MASK, heads).tolist() == pytest.approx(expected, rel=1e-5)


INSIDE = {
    "hidden": hidden_loss,
    "cosine": cosine_loss,
    "relations": lambda student, teacher, mask: relation_loss(student, teacher, mask, 2),
}


@pytest.mark.parametrize("name", INSIDE)
def test_a_student_that_thinks_like_its_teacher_pays_nothing_inside(name: str):
    assert INSIDE[name](vectors(), vectors(), MASK).tolist() == pytest.approx([0, 0], abs=1e-6)


@pytest.mark.parametrize("name", INSIDE)
def test_what_stands_in_the_padding_counts_nowhere(name: str):
    student_BLH = vectors(seed=0)
    other_BLH = torch.where(MASK[..., None].bool(), student_BLH, 9.0)
    teacher_BLH = vectors(seed=1)
    torch.testing.assert_close(INSIDE[name](student_BLH, teacher_BLH, MASK), INSIDE[name](other_BLH, teacher_BLH, MASK))


@pytest.mark.parametrize("name", INSIDE)
def test_a_step_down_the_gradient_brings_the_student_nearer(name: str):
    student_BLH, teacher_BLH = vectors(seed=0).requires_grad_(), vectors(seed=1)
    loss = INSIDE[name](student_BLH, teacher_BLH, MASK).sum()
    (slope_BLH,) = torch.autograd.grad(loss, student_BLH)
    assert torch.isfinite(slope_BLH).all() and not slope_BLH[1, 2:].any()
    step = 1e-3
    moved = INSIDE[name](student_BLH - step * slope_BLH, teacher_BLH, MASK).sum()
    assert float((loss - moved).detach()) == pytest.approx(step * float((slope_BLH**2).sum()), rel=0.02)


def test_what_is_inside_adds_up_by_its_weights():
    student, teacher = (
        [vectors(seed=seed).float() for seed in range(6)],
        [vectors(seed=9 + n).float() for n in range(6)],
    )
    seen = Inside(torch.zeros(2, 3), student[:3], student[3:])
    batch = {
        "attention_mask": MASK,
        "teacher_hidden": torch.cat(teacher[:3], dim=-1),
        "teacher_relations": torch.cat(teacher[3:], dim=-1),
    }
    given = spec(hidden=2.0, cosine=3.0, relations=5.0).model_copy(
        update={"hidden_layers": [1, 2], "relation_heads": 2}
    )
    hidden_B = sum(hidden_loss(*pair, MASK) for pair in zip(student[:2], teacher[:2], strict=True)) / 2
    relations_B = sum(relation_loss(*pair, MASK, 2) for pair in zip(student[3:], teacher[3:], strict=True)) / 3
    expected_B = 2 * hidden_B + 3 * cosine_loss(student[2], teacher[2], MASK) + 5 * relations_B
    torch.testing.assert_close(inside_loss(seen, batch, given), expected_B)


@pytest.mark.parametrize("left_out", [None, "hidden", "cosine", "relations"])
@pytest.mark.parametrize("layers", [[-1], [1, 2, 3]])
def test_what_is_inside_is_the_formula(layers: list[int], left_out: str | None):
    """In numpy and loops: of every real token of a row, the mean over them."""
    chance, names = np.random.default_rng(len(layers)), ("hidden", "cosine", "relations")
    weights = dict(zip(names, chance.uniform(0.5, 2.0, 3).tolist(), strict=True))
    weights |= {left_out: 0.0} if left_out else {}
    given = spec(**weights).model_copy(update={"hidden_layers": layers, "relation_heads": 2})
    compared = len(given.vectors_of([name for name in names if weights[name]]))
    student, teacher = ([vectors(seed=first + n).float() for n in range(compared + 3)] for first in (0, 50))
    seen = Inside(torch.zeros(2, 3), student[:compared], student[compared:])
    batch = {"attention_mask": MASK, "teacher_relations": torch.cat(teacher[compared:], dim=-1)}
    batch["teacher_hidden"] = torch.cat(teacher[:compared], dim=-1) if compared else torch.zeros(2, 4, 0)
    expected = []
    for row in range(2):
        ours, theirs = ([each[row, : tokens(row)].double().numpy() for each in every] for every in (student, teacher))
        pairs = list(zip(ours, theirs, strict=True))
        total = (
            weights["hidden"] * sum(((our - their) ** 2).mean() for our, their in pairs[: len(layers)]) / len(layers)
        )
        if weights["cosine"]:
            our, their = pairs[compared - 1]
            norms = np.linalg.norm(our, axis=1) * np.linalg.norm(their, axis=1)
            total += weights["cosine"] * (1 - (our * their).sum(1) / norms).mean()
        for our, their in pairs[compared:]:
            for head, token in itertools.product((slice(0, 4), slice(4, 8)), range(len(our))):
                q, p = (softmax(each[token, head] @ each[:, head].T, math.sqrt(4)) for each in (our, their))
                total += weights["relations"] / 3 / 2 / len(our) * (p * np.log(p / q)).sum()
        expected.append(float(total))
    assert inside_loss(seen, batch, given).tolist() == pytest.approx(expected, rel=1e-4)
