from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from jobs.measure.bootstrap import interval, resampled


def share(sums_S: np.ndarray) -> float:
    return float(sums_S[0] / sums_S[1])


def rows(right: int, of: int) -> np.ndarray:
    return np.array([(index < right, 1) for index in range(of)], dtype=np.int64)


def test_resampled_shares_are_those_of_every_sample_of_three_rows():
    """Against all 27 samples with replacement: 1 has none right, 6 one, 12 two and 8 three of rows 1, 1, 0."""
    exact = np.array([sum(sample) / 3 for sample in itertools.product([1, 1, 0], repeat=3)])
    found = np.array(resampled(rows(2, 3), share, draws=10000))
    for value in (0, 1 / 3, 2 / 3, 1):
        assert np.isclose(found, value).mean() == pytest.approx(np.isclose(exact, value).mean(), abs=0.015)


def test_the_interval_is_that_of_scipy():
    data = np.array([1.0] * 180 + [0.0] * 20)
    expected = stats.bootstrap(
        (data,), np.mean, n_resamples=3000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    found = interval(resampled(rows(180, 200), share, draws=3000))
    assert found == pytest.approx((expected.low, expected.high), abs=0.006)


def test_nineteen_of_twenty_intervals_hold_the_truth():
    random, truth = np.random.default_rng(3), 0.8
    held = 0
    for seed in range(60):
        right = int(random.binomial(300, truth))
        low, high = interval(resampled(rows(right, 300), share, seed=seed, draws=200))
        held += low <= truth <= high
    assert 52 <= held < 60


def test_the_same_rows_are_drawn_for_every_contender():
    """A contender that is right where the other is, and on 10 rows more, is never behind it."""
    one, other = resampled(rows(150, 200), share), resampled(rows(160, 200), share)
    low, high = interval([more - less for more, less in zip(other, one, strict=True)])
    assert 0 < low < 0.05 < high < 0.1
    assert resampled(rows(150, 200), share) == one != resampled(rows(150, 200), share, seed=1)


def test_rows_that_are_all_right_leave_no_doubt():
    assert interval(resampled(rows(9, 9), share, draws=10)) == (1.0, 1.0)
