from __future__ import annotations

import numpy as np
import torch

from jobs.models.items import ItemSizes, NextItems
from jobs.tasks.behave.catalogue import Catalogue
from jobs.tasks.behave.metrics import ranked
from jobs.tasks.behave.rows import History
from jobs.tasks.behave.scoring import scorer, vectors
from jobs.tasks.behave.splits import Question

LETTERS = Catalogue("abcdef")


def asked(known: str) -> Question:
    return Question(known, History(known, tuple(known)), ("a",))


def test_a_model_ranks_alone_as_among_other_questions():
    torch.manual_seed(0)
    model = NextItems(ItemSizes(6, 8, 1, 2, max_length=4, dropout=0.5)).train()
    score, questions = scorer(model, LETTERS), [asked(known) for known in ("", "a", "abcdefab", "new", "cc")]
    together = score(questions)
    np.testing.assert_allclose(together, np.concatenate([score([each]) for each in questions]), atol=1e-6)
    assert model.training
    assert len(ranked(score, questions, LETTERS)) == 5


def test_only_the_last_events_are_read():
    torch.manual_seed(0)
    score = scorer(NextItems(ItemSizes(6, 8, 1, 2, max_length=4)), LETTERS)
    np.testing.assert_array_equal(score([asked("fedabcd")]), score([asked("abcd")]))


def test_a_vector_is_what_the_model_knows_after_the_last_event():
    torch.manual_seed(0)
    model = NextItems(ItemSizes(6, 8, 1, 2, max_length=4, dropout=0.5))
    histories = [asked(known).known for known in ("ab", "", "fedabcd")]
    found = vectors(model, histories, LETTERS)
    assert found.shape == (3, 8)
    score_QI = scorer(model, LETTERS)([asked("ab")])
    with torch.no_grad():
        weight = torch.nn.functional.softplus(model.repeat(torch.tensor(found[:1]))).item()
        items = model.items.weight[1:].numpy()
    count_I = np.array([1, 1, 0, 0, 0, 0])
    np.testing.assert_allclose(score_QI, found[:1] @ items.T + weight * np.log1p(count_I), atol=1e-5)
