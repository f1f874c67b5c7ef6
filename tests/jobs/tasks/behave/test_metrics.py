from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from jobs.tasks.behave import metrics
from jobs.tasks.behave.catalogue import Catalogue
from jobs.tasks.behave.metrics import Ranking, ranked
from jobs.tasks.behave.rows import History
from jobs.tasks.behave.splits import Question

FIVE = Catalogue(["a", "b", "c", "d", "e"])


def asked(customer: str, known: str, wanted: str) -> Question:
    """A question whose items are letters."""
    return Question(customer, History(customer, tuple(known)), tuple(wanted))


def saying(*lists: list[float]):
    """A scorer that says these scores, question by question."""
    left = [list(each) for each in lists]
    return lambda questions: np.array([left.pop(0) for _ in questions])


def test_metrics_of_a_tiny_log_are_those_counted_by_hand():
    questions = [asked("ann", "a", "be"), asked("ann", "ab", "c"), asked("bob", "c", "d")]
    scores = [5.0, 4, 3, 2, 1], [1.0, 2, 5, 4, 3], [0.0, 1, 2, 3, 4]
    found = metrics.metrics(ranked(saying(*scores), questions, FIVE), FIVE)
    # ranks: b 2 and e 5; c 1; d 2
    assert found["mrr"] == pytest.approx((1 / 2 + 1 + 1 / 2) / 3)
    assert found["hr_5"] == found["recall_5"] == 1.0
    second, fifth = 1 / math.log2(3), 1 / math.log2(6)
    assert found["ndcg_5"] == found["ndcg_10"] == pytest.approx(((second + fifth) / (1 + second) + 1 + second) / 3)
    assert found["coverage_5"] == 1.0
    assert found["popular_share_5"] == pytest.approx(1 / 5)


def test_only_what_stands_among_the_first_counts():
    many = Catalogue([f"i{number}" for number in range(40)])
    question = Question("ann", History("ann", ("i0",)), ("i5", "i6", "i30", "new"))
    found = metrics.metrics(ranked(saying([float(-n) for n in range(40)]), [question], many), many)
    assert [found[f"hr_{cut}"] for cut in (5, 10, 20)] == [0, 1, 1]
    assert [found[f"recall_{cut}"] for cut in (5, 10, 20)] == [0, 2 / 4, 2 / 4]
    best = sum(1 / math.log2(place + 1) for place in (1, 2, 3, 4))
    assert found["ndcg_10"] == pytest.approx((1 / math.log2(7) + 1 / math.log2(8)) / best)
    assert found["mrr"] == pytest.approx(1 / 6)
    assert [found[f"coverage_{cut}"] for cut in (5, 10, 20)] == [5 / 40, 10 / 40, 20 / 40]
    assert [found[f"popular_share_{cut}"] for cut in (5, 10, 20)] == [4 / 5, 4 / 10, 4 / 20]


def test_equal_scores_stand_in_the_order_of_numbers():
    (found,) = ranked(saying([1.0, 1, 1, 2, 1]), [asked("ann", "a", "ce")], FIVE)
    assert found.top.tolist() == [3, 0, 1, 2, 4]
    assert found.ranks.tolist() == [4, 5]


def test_a_score_that_is_no_number_is_never_first():
    (found,) = ranked(saying([math.nan, 1, -math.inf, 2, 3]), [asked("ann", "", "ab")], FIVE)
    assert found.top.tolist() == [4, 3, 1]
    assert (found.ranks.tolist(), found.wanted) == ([3], 2)


def test_without_repeats_what_a_customer_has_is_neither_said_nor_wanted():
    questions = [asked("ann", "ab", "abc"), asked("bob", "ab", "a")]
    (found,) = ranked(saying([5.0, 4, 3, 2, 1]), questions, FIVE, repeats=False)
    assert (found.top.tolist(), found.ranks.tolist(), found.wanted) == ([2, 3, 4], [1], 1)


def test_more_questions_than_are_held_at_once_are_ranked_in_order(monkeypatch: pytest.MonkeyPatch):
    random = np.random.default_rng(0)
    questions = [asked(str(number), "a", "abcde"[number % 5]) for number in range(23)]
    scores = random.normal(size=(23, 5)).tolist()
    whole = ranked(saying(*scores), questions, FIVE)
    monkeypatch.setattr(metrics, "AT_ONCE", 7)
    parts = ranked(saying(*scores), questions, FIVE)
    assert [each.top.tolist() for each in parts] == [each.top.tolist() for each in whole]
    assert [each.customer for each in parts] == [each.customer for each in questions]


def plain(scores: Sequence[float], wanted: Sequence[int], cut: int) -> dict[str, float]:
    """The metrics of one question as their definitions have it: the list is built, then read from the top."""
    said = sorted(range(len(scores)), key=lambda item: (-scores[item], item))
    gains = [1 / math.log2(place + 2) for place in range(cut)]
    hits = [place for place, item in enumerate(said[:cut]) if item in wanted]
    first = next(place for place, item in enumerate(said) if item in wanted)
    return {
        f"hr_{cut}": float(bool(hits)),
        f"recall_{cut}": len(hits) / len(wanted),
        f"ndcg_{cut}": sum(gains[place] for place in hits) / sum(gains[: len(wanted)]),
        "mrr": 1 / (first + 1),
    }


@pytest.mark.parametrize("cut", metrics.CUTS)
def test_metrics_are_their_plain_formulas(cut: int):
    random = np.random.default_rng(cut)
    catalogue = Catalogue([str(number) for number in range(60)])
    scores = random.integers(20, size=(50, 60)).astype(float)  # many ties
    wanted = [random.choice(60, size=random.integers(1, 9), replace=False).tolist() for _ in range(50)]
    questions = [Question("ann", History("ann", ()), tuple(map(str, each))) for each in wanted]
    found = metrics.values(ranked(saying(*scores.tolist()), questions, catalogue))
    expected = [plain(each, items, cut) for each, items in zip(scores.tolist(), wanted, strict=True)]
    for name in expected[0]:
        np.testing.assert_allclose(found[name], [each[name] for each in expected])


def test_an_interval_is_that_of_customers_and_not_of_questions():
    """One customer of two has all hits, asked a hundred times: no more is known than of two customers."""
    hit, miss = np.array([1]), np.array([90])
    rankings = [
        Ranking(name, np.array([0]), rank, 1) for name, rank in (("ann", hit), ("bob", miss)) for _ in range(50)
    ]
    found = metrics.metrics(rankings, FIVE)
    assert (found["hr_5_low"], found["hr_5"], found["hr_5_high"]) == (0.0, 0.5, 1.0)


def test_customers_with_more_questions_weigh_more():
    sums = metrics.by_customer(np.array([1.0, 0.0, 0.5, 1.0]), ["b", "a", "b", "b"])
    assert sums.tolist() == [[0.0, 1.0], [2.5, 3.0]]
    assert metrics.mean(sums.sum(axis=0)) == 2.5 / 4
