from __future__ import annotations

import pytest
import torch

from configs.schema.distillation import DistillationSpec
from jobs.tasks.behave.catalogue import Catalogue
from jobs.tasks.behave.examples import collate, examples, numbered
from jobs.tasks.behave.losses import distill_next_items_loss, next_items_loss, ranked_list
from jobs.tasks.behave.rows import History

LETTERS = Catalogue("abcdef")
HISTORIES = [
    History("ann", ("a", "b", "c", "d"), (1.0, 2.0, 2.0, 3.0)),
    History("bob", ("f", "f")),
]
KL = {"kl": 1.0, "cross_entropy": 0.0}


def batch_of(histories: list[History]) -> dict[str, torch.Tensor]:
    return collate([each for history in histories for each in examples(numbered(history, LETTERS), 10)])


def logits_of(batch: dict[str, torch.Tensor], seed: int = 0) -> torch.Tensor:
    return torch.randn(int(batch["ends"].sum()), 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_a_row_is_the_cross_entropy_of_its_baskets(smoothing: float):
    batch = batch_of(HISTORIES)
    logits = logits_of(batch)
    wanted = [[[0], [1, 2], [3]], [[5], [5]]]
    expected, end = [], 0
    for row in wanted:
        total = 0.0
        for items in row:
            target = torch.zeros(6)
            target[items] = 1 / len(items)
            target = (1 - smoothing) * target + smoothing / 6
            total += float(-(target * logits[end].log_softmax(-1)).sum())
            end += 1
        expected.append(total)
    assert next_items_loss(logits, batch, smoothing).tolist() == pytest.approx(expected)


def test_a_batch_adds_up_to_its_rows():
    whole = batch_of(HISTORIES)
    logits = logits_of(whole)
    parts = [
        next_items_loss(part, batch_of([each])) for part, each in zip(logits.split([3, 2]), HISTORIES, strict=True)
    ]
    torch.testing.assert_close(next_items_loss(logits, whole), torch.cat(parts))


def test_a_ranked_list_holds_the_likeliest_items():
    found = ranked_list(torch.tensor([[0.0, 3.0, 1.0, 2.0]]), 2)
    assert found.ids_NK.tolist() == [[1, 3]]
    assert found.log_probs_NK.exp().sum() < 1
    assert ranked_list(torch.zeros(1, 4), 9).log_probs_NK.exp().tolist() == [pytest.approx([0.25] * 4)]


@pytest.mark.parametrize("count", [2, 6])
def test_a_student_that_says_what_the_teacher_says_has_nothing_to_learn(count: int):
    batch = batch_of(HISTORIES)
    teacher = logits_of(batch)
    ids, log_probs = ranked_list(teacher, count)
    batch |= {"teacher_ids": ids, "teacher_log_probs": log_probs}
    spec = DistillationSpec.model_validate({"weights": KL, "temperature": 1.0})
    torch.testing.assert_close(distill_next_items_loss(teacher, batch, spec), torch.zeros(2), atol=1e-5, rtol=0)
    assert (distill_next_items_loss(logits_of(batch, seed=1), batch, spec) > 0.01).all()


def test_a_whole_list_is_the_divergence_over_the_catalogue():
    batch = batch_of(HISTORIES)
    teacher, student = logits_of(batch), logits_of(batch, seed=1)
    ids, log_probs = ranked_list(teacher, 6)
    batch |= {"teacher_ids": ids, "teacher_log_probs": log_probs}
    spec = DistillationSpec.model_validate({"weights": {"kl": 1.0, "cross_entropy": 0.5}, "temperature": 2.0})
    log_p, log_q = (each.div(2).log_softmax(-1) for each in (teacher, student))
    kl = 4 * (log_p.exp() * (log_p - log_q)).sum(-1)
    expected = torch.stack([part.sum() for part in kl.split([3, 2])]) + 0.5 * next_items_loss(student, batch)
    torch.testing.assert_close(distill_next_items_loss(student, batch, spec), expected)
