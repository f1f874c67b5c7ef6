from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from jobs.measure.calibration import (
    COLDEST,
    HOTTEST,
    confidence,
    fit_temperature,
    lowest_safe_threshold,
    lowest_threshold,
)


def logits_and_labels(heat: float, rows: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits [N, 4], and labels [N] drawn from softmax(logits / heat)."""
    random = np.random.default_rng(seed)
    logits_NC = random.normal(size=(rows, 4)) * 5
    noise_NC = random.gumbel(size=(rows, 4))
    return logits_NC, (logits_NC / heat + noise_NC).argmax(axis=1)


def nll(logits_NC: np.ndarray, label_N: np.ndarray, temperature: float) -> float:
    return -log_softmax(logits_NC / temperature, axis=1)[np.arange(len(label_N)), label_N].mean()


@pytest.mark.parametrize("heat", [0.5, 1.0, 3.0])
def test_temperature_is_where_scipy_finds_the_least_nll(heat: float):
    logits_NC, label_N = logits_and_labels(heat)
    best = minimize_scalar(
        lambda log_t: nll(logits_NC, label_N, np.exp(log_t)), bounds=(-2, 3), method="bounded", options={"xatol": 1e-9}
    )
    fitted = fit_temperature(logits_NC, label_N)
    assert fitted == pytest.approx(np.exp(best.x), rel=1e-5)  # pyright: ignore[reportAttributeAccessIssue]
    assert fitted == pytest.approx(heat, rel=0.3)


def test_log_probabilities_do_as_well_as_logits():
    logits_NC, label_N = logits_and_labels(2.0)
    log_scores_NC = log_softmax(logits_NC, axis=1)
    assert fit_temperature(log_scores_NC, label_N) == pytest.approx(fit_temperature(logits_NC, label_N))
    np.testing.assert_allclose(confidence(log_scores_NC, 2.0), confidence(logits_NC, 2.0))


def test_a_model_that_is_always_right_or_always_wrong_gets_the_end_of_the_scale():
    logits_NC, _ = logits_and_labels(1.0)
    assert fit_temperature(logits_NC, logits_NC.argmax(axis=1)) == pytest.approx(COLDEST)
    assert fit_temperature(logits_NC, logits_NC.argmin(axis=1)) == pytest.approx(HOTTEST)


def test_confidence_is_the_largest_probability():
    logits_NC, _ = logits_and_labels(1.0, rows=7)
    expected = np.exp(log_softmax(logits_NC / 1.7, axis=1)).max(axis=1)
    np.testing.assert_allclose(confidence(logits_NC, 1.7), expected)


def lowest_by_trying(
    confidence_N: np.ndarray, first_N: np.ndarray, second_N: np.ndarray, wanted: float
) -> float | None:
    known = np.unique(confidence_N)
    for threshold in (0.0, *((known[1:] + known[:-1]) / 2)):
        if np.where(confidence_N >= threshold, first_N, second_N).mean() >= wanted:
            return threshold
    return None


@pytest.mark.parametrize("digits", [1, 12])  # 1: most confidences are shared by several rows
def test_threshold_is_the_lowest_that_trying_them_all_finds(digits: int):
    found = []
    for seed in range(200):
        random = np.random.default_rng(seed)
        rows = int(random.integers(1, 40))
        confidence_N = random.uniform(0.2, 1, rows).round(digits)
        first_N, second_N = random.random(rows) < confidence_N, random.random(rows) < 0.9
        wanted = second_N.mean() - random.choice([-0.05, 0.0, 0.02, 0.1, 0.5])
        found.append(lowest_threshold(confidence_N, first_N, second_N, wanted))
        assert found[-1] == pytest.approx(lowest_by_trying(confidence_N, first_N, second_N, wanted))
    assert None in found and 0.0 in found and len(set(found)) > 15


def test_the_first_answers_no_row_that_shares_its_confidence_with_one_too_many():
    confidence_N = np.array([0.9, 0.8, 0.8, 0.7])
    first_N, second_N = np.array([True, True, False, False]), np.array([True, True, True, True])
    assert lowest_threshold(confidence_N, first_N, second_N, 1.0) == pytest.approx(0.85)


@pytest.mark.parametrize(("margin", "least", "most"), [(0.0, 0.4, 1.0), (1.0, 0.0, 0.16), (2.0, 0.0, 0.03)])
def test_rows_that_chose_the_threshold_promise_no_more_than_fresh_rows_keep(margin: float, least: float, most: float):
    """How often the loss is past its limit on 100,000 other rows. Without a margin in half of the draws or more."""
    limit = 0.005

    def drawn(rows: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        confidence_N = random.uniform(0.3, 1, rows)
        return confidence_N, random.random(rows) < confidence_N, random.random(rows) < 0.93

    fresh_N = drawn(100_000, np.random.default_rng(10**6))
    past = []
    for seed in range(200):
        confidence_N, first_N, second_N = drawn(2000, np.random.default_rng(seed))
        threshold = lowest_threshold(confidence_N, first_N, second_N, second_N.mean() - limit, margin)
        answered_N = fresh_N[0] >= (2.0 if threshold is None else threshold)
        past.append((fresh_N[2] - np.where(answered_N, fresh_N[1], fresh_N[2]).astype(float)).mean() > limit)
    assert least <= np.mean(past) <= most


def lowest_safe_by_trying(confidence_N: np.ndarray, right_N: np.ndarray, wanted: float, margin: float) -> set[int]:
    """Numbers of rows that may be answered, the surest first, by the definition."""
    order, enough = np.argsort(-confidence_N), set()
    for count in range(2, len(order) + 1):
        wrong = int((~right_N[order[:count]]).sum())
        feared = min(1.0, (wrong + 1) / count)
        if feared < 1 and 1 - wrong / count - margin * np.sqrt(feared * (1 - feared) / count) >= wanted:
            enough.add(count)
    return enough


@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_the_threshold_of_answers_lets_through_as_many_rows_as_are_right_often_enough(margin: float):
    seen = set()
    for seed in range(100):
        random = np.random.default_rng(seed)
        confidence_N = random.uniform(0.2, 1, int(random.integers(1, 80)))
        right_N = random.random(len(confidence_N)) < confidence_N**0.2
        threshold = lowest_safe_threshold(confidence_N, right_N, 0.9, margin)
        expected = lowest_safe_by_trying(confidence_N, right_N, 0.9, margin)
        answered = 0 if threshold is None else int((confidence_N >= threshold).sum())
        assert answered == max(expected, default=0)
        seen.add(answered == len(confidence_N))
    assert seen == {True, False}


def test_what_is_less_sure_than_every_row_is_not_answered():
    threshold = lowest_safe_threshold(np.array([0.9, 0.8, 0.7]), np.array([True] * 3), 0.9, 0.0)
    assert threshold is not None and 0.699 < threshold < 0.7
    assert lowest_safe_threshold(np.array([]), np.array([], bool), 0.9, 1.0) is None
