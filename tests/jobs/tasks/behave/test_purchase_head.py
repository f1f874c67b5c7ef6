from __future__ import annotations

import math
from datetime import date

import numpy as np
import pytest

from configs.loader import UsageError
from jobs.tasks.behave import purchase
from jobs.tasks.behave.instants import DAY, start_of
from jobs.tasks.behave.purchase_head import PurchaseHead, fit, inputs, past_days
from jobs.tasks.behave.rows import History

AT = "data.train: shop.csv"
TRUE = PurchaseHead(np.array([0.05, 10, 0]), -3.0)


def test_inputs_are_days_since_the_last_event_baskets_and_days_between_them():
    ann = History("ann", ("a", "b", "c", "d"), (0.0, 0.0, 4 * DAY, 10 * DAY))
    bob = History("bob", ("a",), (3 * DAY,))
    found = np.expm1(inputs([ann, bob], [12 * DAY, 12 * DAY]))
    np.testing.assert_allclose(found, [[2, 3, 5], [9, 1, 9]])
    with_vectors = inputs([ann, bob], [12 * DAY, 12 * DAY], np.array([[7.0], [8.0]]))
    assert with_vectors.shape == (2, 4) and with_vectors[:, 3].tolist() == [7.0, 8.0]


def test_a_head_is_a_matrix_product_under_a_sigmoid():
    head = PurchaseHead(np.array([1.0, -2.0]), 0.5)
    assert head(np.array([[1.0, 1.0], [0.0, 0.0]])).tolist() == pytest.approx(
        [1 / (1 + math.exp(0.5)), 1 / (1 + math.exp(-0.5))]
    )


def shop(customers: int, seed: int) -> tuple[np.ndarray, list[bool]]:
    """Customers with known log-odds, of inputs that lie far apart, and one that never changes."""
    random = np.random.default_rng(seed)
    input_NF = np.stack(
        [random.normal(50, 20, customers), random.normal(0, 0.1, customers), np.full(customers, 3.0)], 1
    )
    return input_NF, (random.random(customers) < TRUE(input_NF)).tolist()


def test_a_fitted_head_is_as_good_as_the_odds_that_made_the_purchases():
    train, validation, test = shop(4000, 0), shop(1000, 1), shop(4000, 2)
    head = fit(*train, *validation, AT)
    assert head.weight_F[:2].tolist() == pytest.approx([0.05, 10], rel=0.1)
    names = [str(row) for row in range(4000)]
    mine, true = (purchase.metrics(each(test[0]), np.array(test[1]), names) for each in (head, TRUE))
    for name in ("auc", "brier", "purchase_ece"):
        assert mine[name] == pytest.approx(true[name], abs=0.01), name
    assert mine["brier_high"] < mine["brier_of_rate"]


def test_inputs_that_say_nothing_are_held_down_by_validation():
    random = np.random.default_rng(3)
    bought = [(random.random(60) < 0.5).tolist() for _ in range(2)]
    head = fit(random.normal(size=(60, 40)), bought[0], random.normal(size=(60, 40)), bought[1], AT)
    assert np.abs(head.weight_F).max() < 0.1


def test_customers_who_all_do_the_same_are_refused():
    train, validation = shop(50, 0), shop(50, 1)
    with pytest.raises(
        UsageError, match=r"^data.train: shop.csv: none of the 50 training customers bought; take anoth"
    ):
        fit(train[0], [False] * 50, *validation, AT)
    with pytest.raises(UsageError, match=r"all of the 50 validation customers bought"):
        fit(*train, validation[0], [True] * 50, AT)


def test_days_lie_one_horizon_apart_inside_the_log():
    first, last = start_of(date(2026, 9, 1)) + 3600, start_of(date(2026, 11, 30)) + 3600
    assert past_days(first, last, 30) == [date(2026, 10, 31), date(2026, 10, 1)]
    assert past_days(first, last, 89) == [date(2026, 9, 2)]
    assert past_days(first, last, 90) == []
