from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from jobs.tasks.behave import baselines
from jobs.tasks.behave.baselines import BASELINES, Log, chosen
from jobs.tasks.behave.catalogue import Catalogue
from jobs.tasks.behave.instants import DAY
from jobs.tasks.behave.metrics import ranked
from jobs.tasks.behave.rows import History
from jobs.tasks.behave.splits import Question, baskets, leave_last_out

SHOP = [
    History("1", ("a", "b", "c", "a"), (0, DAY, DAY, 2 * DAY)),
    History("2", ("b", "c"), (0, DAY)),
    History("3", ("a", "d", "b"), (0, 20 * DAY, 20 * DAY)),
    History("4", ("e",), (5 * DAY,)),
]


def log_of(histories: list[History]) -> Log:
    return Log(histories, Catalogue.of(histories))


def question(*items: str, times: tuple[float, ...] = (), at: float | None = None) -> Question:
    return Question("x", History("x", items, times), ("a",), at)


def random_log(customers: int = 40, items: int = 12, seed: int = 0) -> Log:
    """Histories in baskets of one to three items, some items liked by the same customers."""
    random = np.random.default_rng(seed)
    found = []
    for customer in range(customers):
        sizes = random.integers(1, 4, size=random.integers(1, 6))
        liked = random.integers(items)
        names = [f"i{(liked + random.geometric(0.4)) % items:02}" for _ in range(sizes.sum())]
        times = np.repeat(np.arange(len(sizes)), sizes).astype(float)
        found.append(History(str(customer), tuple(names), tuple(times.tolist())))
    return log_of(found)


def asked(log: Log) -> list[Question]:
    """Histories as questions, one of them empty and one with an unknown item."""
    known = [*log.histories[:10], History("x", ()), History("x", ("new", log.catalogue.ids[3]), (0.0, 1.0))]
    return [Question("x", each, ("a",)) for each in known]


def test_the_most_popular_items_are_said_to_everybody():
    log = log_of(SHOP)
    assert log.catalogue.ids == ("a", "b", "c", "d", "e")
    for found in ranked(BASELINES["popular"].fit(log), [question(), question("e")], log.catalogue):
        assert found.top.tolist() == [0, 1, 2, 3, 4]


def test_recent_items_are_those_of_the_days_before_the_question():
    log = log_of(SHOP)
    score = BASELINES["recent"].fit(log, days=2)
    by = {item: number for number, item in enumerate(log.catalogue.ids)}

    def counts(at: float | None) -> dict[str, int]:
        (score_I,) = score([question("a", at=at)])
        return {item: int(score_I[number]) for item, number in by.items() if score_I[number]}

    assert counts(0) == {}  # what happens at the very time of the question is not known
    assert counts(DAY) == {"a": 2, "b": 1}
    assert counts(3 * DAY) == {"a": 1, "b": 1, "c": 2}
    assert counts(10 * DAY) == {}
    assert counts(None) == counts(500 * DAY) == {"b": 1, "d": 1}  # the last days that the log tells of


def test_purchases_outside_the_catalogue_are_left_out():
    time_P, item_P = Log(SHOP, Catalogue(["c", "e"])).purchases
    assert (time_P.tolist(), item_P.tolist()) == ([DAY, DAY, 5 * DAY], [0, 0, 1])


def test_repeats_are_counted():
    log = log_of(SHOP)
    (found,) = ranked(BASELINES["repeat"].fit(log), [question("e", "d", "e", "new")], log.catalogue)
    assert [log.catalogue.ids[number] for number in found.top] == ["e", "d", "a", "b", "c"]


def test_a_markov_chain_of_single_items_is_the_table_of_what_follows():
    histories = [History("1", ("a", "b", "a", "c", "a", "b")), History("2", ("c", "b"))]
    log = log_of(histories)
    (score_I,) = BASELINES["markov"].fit(log)([question("c", "a")])
    found = dict(zip(log.catalogue.ids, score_I.tolist(), strict=True))
    assert found == pytest.approx({"a": 0, "b": 2 / 3, "c": 1 / 3})


def test_a_markov_chain_of_baskets_is_counted_pair_by_pair():
    log = random_log()
    follows = Counter[tuple[str, str]]()
    for history in log.histories:
        for (first, middle), (_, last) in pairwise(baskets(history)):
            follows.update((i, j) for i in {*history.items[first:middle]} for j in {*history.items[middle:last]})
    questions = asked(log)
    for each, score_I in zip(questions, BASELINES["markov"].fit(log)(questions), strict=True):
        first, stop = (baskets(each.known) or [(0, 0)])[-1]
        last = {*each.known.items[first:stop]} & {*log.catalogue.ids}
        for j, score in zip(log.catalogue.ids, score_I, strict=True):
            shares = [follows[i, j] / max(1, sum(follows[i, k] for k in log.catalogue.ids)) for i in last]
            assert score == pytest.approx(sum(shares) / max(1, len(shares)))


@pytest.mark.parametrize("neighbours", [2, 5, 100])
@pytest.mark.parametrize("at_once", [5, 512])
def test_nearest_items_are_found_by_their_plain_cosines(neighbours: int, at_once: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(baselines, "ROWS_AT_ONCE", at_once)
    log = random_log()
    owners = {item: {each.customer for each in log.histories if item in each.items} for item in log.catalogue.ids}

    def cosine(i: str, j: str) -> float:
        return len(owners[i] & owners[j]) / (len(owners[i]) * len(owners[j])) ** 0.5

    questions = asked(log)
    for each, score_I in zip(questions, BASELINES["knn"].fit(log, neighbours=neighbours)(questions), strict=True):
        for j, score in zip(log.catalogue.ids, score_I, strict=True):
            others = [i for i in log.catalogue.ids if i != j]
            near = sorted(others, key=lambda i: -cosine(i, j))[:neighbours]
            assert score == pytest.approx(sum(cosine(i, j) for i in near if i in each.known.items))


@pytest.mark.parametrize("regularization", [0.5, 20.0])
def test_ease_is_the_ridge_regression_of_each_item_on_the_others(regularization: float):
    """The problem that its closed form solves, solved item by item without that item's own column."""
    log = random_log()
    has = np.array([[item in each.items for item in log.catalogue.ids] for each in log.histories], dtype=float)
    count = has.shape[1]
    weights = np.zeros((count, count))
    for item in range(count):
        others = [each for each in range(count) if each != item]
        gram = has[:, others].T @ has[:, others] + regularization * np.eye(count - 1)
        weights[others, item] = np.linalg.solve(gram, has[:, others].T @ has[:, item])
    questions = asked(log)
    known = np.array([[item in each.known.items for item in log.catalogue.ids] for each in questions], dtype=float)
    found = BASELINES["ease"].fit(log, regularization=regularization)(questions)
    np.testing.assert_allclose(found, known @ weights, atol=1e-10)


@pytest.mark.parametrize("name", BASELINES)
def test_an_empty_history_gets_the_popular_items(name: str):
    log = random_log()
    scorer = BASELINES[name].fit(log, **BASELINES[name].settings[0])
    (found,) = ranked(scorer, [question(at=0.0)], log.catalogue)
    assert found.top.tolist() == list(range(len(log.catalogue)))


@pytest.mark.parametrize("name", BASELINES)
def test_what_is_said_to_one_depends_on_no_other_question(name: str):
    log = random_log()
    scorer = BASELINES[name].fit(log, **BASELINES[name].settings[0])
    questions = asked(log)
    alone = [scorer([each])[0] for each in questions]
    np.testing.assert_allclose(scorer(questions), alone)


@pytest.mark.parametrize("name", BASELINES)
def test_histories_of_one_event_each_are_enough(name: str):
    log = log_of([History("1", ("a",), (0.0,)), History("2", ("b",), (1.0,)), History("3", (), ())])
    scorer = BASELINES[name].fit(log, **BASELINES[name].settings[0])
    assert np.isfinite(scorer([question("a", times=(0.0,), at=5.0)])).all()


def test_the_setting_is_the_one_that_validation_ranks_best():
    parts = leave_last_out(random_log(customers=200).histories)
    log = log_of(parts.train)
    found = chosen("knn", log, parts.validation)
    assert not isinstance(found, str)
    tried = {}
    for setting in BASELINES["knn"].settings:
        rankings = ranked(BASELINES["knn"].fit(log, **setting), parts.validation, log.catalogue)
        tried[setting["neighbours"]] = baselines.values(rankings)["ndcg_10"].mean()
    assert found.validation == max(tried.values()) == tried[found.setting["neighbours"]]


def test_a_baseline_that_cannot_be_fitted_says_why(monkeypatch: pytest.MonkeyPatch):
    log = log_of([History("1", ("a", "b"))])
    assert chosen("recent", log, [question("a")]) == "the histories have no times"
    monkeypatch.setattr(baselines, "LARGEST", 1)
    assert chosen("ease", log, [question("a")]) == "2 items are more than the 1 it can hold"
