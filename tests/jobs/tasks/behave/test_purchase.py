from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from jobs.tasks.behave import purchase


def said(probability: Sequence[float] | np.ndarray, bought: Sequence[bool] | np.ndarray) -> dict[str, float]:
    """The metrics where each row is another customer."""
    return purchase.metrics(np.asarray(probability), np.asarray(bought), [str(row) for row in range(len(bought))])


def test_metrics_of_five_customers_are_those_counted_by_hand():
    found = said([0.9, 0.6, 0.6, 0.2, 0.1], [True, True, False, False, True])
    # pairs of a buyer and another: 0.9 wins two, 0.6 ties one and wins one, 0.1 none
    assert found["auc"] == pytest.approx((2 + 1.5 + 0) / 6)
    assert found["brier"] == pytest.approx((0.01 + 0.16 + 0.36 + 0.04 + 0.81) / 5)
    assert (found["purchase_rate"], found["brier_of_rate"]) == pytest.approx((0.6, 0.24))
    assert found["auc_low"] <= found["auc"] <= found["auc_high"]


def test_auc_and_brier_of_any_sample_follow_from_sums():
    random = np.random.default_rng(1)
    probability = random.integers(30, size=400) / 30
    bought = random.random(400) < probability
    places, errors = purchase.places(probability, bought), purchase.errors(probability, bought)
    for _ in range(5):
        drawn = random.integers(400, size=400)
        counts = np.bincount(drawn, minlength=400)
        assert purchase.auc(counts @ places) == pytest.approx(roc_auc_score(bought[drawn], probability[drawn]))
        assert purchase.brier(counts @ errors) == pytest.approx(brier_score_loss(bought[drawn], probability[drawn]))


def test_there_is_no_auc_where_all_bought_or_nobody():
    for bought in (True, False):
        found = said([0.5, 0.6], [bought, bought])
        assert math.isnan(found["auc"]) and math.isnan(found["auc_low"])
        assert found["brier_of_rate"] == 0


def test_honest_probabilities_are_calibrated_and_bold_ones_are_not():
    random = np.random.default_rng(2)
    honest = random.random(5000)
    bought = random.random(5000) < honest
    bold = honest > 0.5
    assert said(honest, bought)["purchase_ece"] < 0.03
    assert said(bold, bought)["purchase_ece"] == pytest.approx(0.25, abs=0.03)
    assert said(honest, bought)["auc"] > said(bold, bought)["auc"]


def test_bins_of_equal_size_say_what_was_promised_and_what_came():
    found = purchase.reliability([0.4, 0.1, 0.3, 0.8, 0.6], [False, False, True, True, True], bins=2)
    assert found == [(pytest.approx(0.8 / 3), pytest.approx(1 / 3), 3), (pytest.approx(0.7), 1.0, 2)]
    assert len(purchase.reliability([0.5], [True], bins=10)) == 1


def test_an_interval_is_that_of_customers_and_not_of_rows():
    """Three customers asked forty times each: as much is known as of three rows, however often each is asked."""
    probability, bought = np.array([0.9, 0.2, 0.6]), np.array([True, False, False])
    once = said(probability, bought)
    often = purchase.metrics(np.tile(probability, 40), np.tile(bought, 40), ["a", "b", "c"] * 40)
    for name in ("auc", "brier"):
        ends = f"{name}_low", name, f"{name}_high"
        assert [often[each] for each in ends] == pytest.approx([once[each] for each in ends])
