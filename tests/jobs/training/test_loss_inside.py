from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from jobs.models.hidden_states import HiddenStates
from jobs.training.loss import (
    cosine_loss,
    hidden_loss,
    hidden_states_loss,
    relation_loss,
)
from tests.jobs.training.losses import softmax, spec

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
    seen = HiddenStates(torch.zeros(2, 3), student[:3], student[3:])
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
    torch.testing.assert_close(hidden_states_loss(seen, batch, given), expected_B)


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
    seen = HiddenStates(torch.zeros(2, 3), student[:compared], student[compared:])
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
    assert hidden_states_loss(seen, batch, given).tolist() == pytest.approx(expected, rel=1e-4)
