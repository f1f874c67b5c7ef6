from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from configs.loader import UsageError
from jobs.tasks.behave.baselines import BASELINES, Log
from jobs.tasks.behave.catalogue import Catalogue
from jobs.tasks.behave.comparison import Comparison, Difference, compared
from jobs.tasks.behave.metrics import Scorer
from jobs.tasks.behave.rows import History
from jobs.tasks.behave.splits import Question, leave_last_out

ITEMS = [f"i{number:02}" for number in range(40)]


def loyal(customers: int, seed: int = 0) -> list[History]:
    """Customers who mostly buy again one of the three items that they like."""
    random = np.random.default_rng(seed)
    found = []
    for customer in range(customers):
        liked = random.choice(ITEMS, 3, replace=False)
        items = [str(random.choice(liked if random.random() < 0.8 else ITEMS)) for _ in range(8)]
        found.append(History(str(customer), tuple(items)))
    return found


PARTS = leave_last_out(loyal(80))
LOG = Log(PARTS.train, Catalogue.of(PARTS.train))


def knowing(noise: float) -> Scorer:
    """A model that knows what is wanted, but for some noise."""
    random = np.random.default_rng(0)

    def score(questions: Sequence[Question]) -> np.ndarray:
        found = noise * random.normal(size=(len(questions), len(LOG.catalogue)))
        for row, each in enumerate(questions):
            found[row, LOG.catalogue.numbers(each.wanted)] += 1
        return found

    return score


@pytest.fixture(scope="module")
def found() -> Comparison:
    return compared({"oracle": knowing(0.01), "chance": knowing(1000.0)}, LOG, PARTS.validation, PARTS.test)


def test_all_baselines_stand_beside_the_models(found: Comparison):
    assert list(found.rows) == ["oracle", "chance", *(name for name in BASELINES if name != "recent")]
    assert found.left_out == {"recent": "the histories have no times"}
    assert found.settings["knn"] in BASELINES["knn"].settings


def test_each_model_is_held_against_the_best_baseline(found: Comparison):
    ndcg = {name: each["ndcg_10"] for name, each in found.rows.items()}
    best = max((name for name in ndcg if name in BASELINES), key=ndcg.__getitem__)
    assert best == "repeat"
    for name, each in found.differences.items():
        assert each.baseline == best
        assert each.value == pytest.approx(ndcg[name] - ndcg[best])
        assert each.low <= each.value <= each.high


def test_a_model_behind_a_baseline_is_said_to_be_so_first(found: Comparison):
    first, second = found.said()
    assert first.startswith(
        f"chance: ndcg_10 {found.rows['chance']['ndcg_10']:.4f}, behind the best baseline, repeat (-"
    )
    assert second.startswith("oracle: ndcg_10 1.0000, before the best baseline, repeat (+")


def test_a_difference_that_chance_may_make_is_said_to_be_so():
    difference = Difference("repeat", -0.0034, -0.012, 0.004)
    (said,) = Comparison({"student": {"ndcg_10": 0.2371}}, {}, {}, {"student": difference}).said()
    assert said == (
        "student: ndcg_10 0.2371, no surer than chance apart from the best baseline, repeat "
        "(-0.0034, -0.0120 to +0.0040 over customers)"
    )


def test_a_model_that_is_a_baseline_is_no_different_from_it():
    same = compared({"mine": BASELINES["repeat"].fit(LOG)}, LOG, PARTS.validation, PARTS.test)
    assert same.differences["mine"] == Difference("repeat", 0.0, 0.0, 0.0)


def test_without_repeats_nothing_is_known_to_be_bought_again():
    new = compared({}, LOG, PARTS.validation, PARTS.test, repeats=False)
    assert new.rows["repeat"] == new.rows["popular"]
    again = [Question("ann", History("ann", ("i01",)), ("i01",))]
    with pytest.raises(UsageError, match="the test questions want nothing that is new to a customer"):
        compared({}, LOG, PARTS.validation, again, repeats=False)
