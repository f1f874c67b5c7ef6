from __future__ import annotations

import functools
import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from configs.schema.search import NAMED, BudgetSpec, Objective, SearchSpec, Weights
from tuning.pareto import (
    ALIKE,
    RIVALS,
    Choice,
    Trial,
    broken,
    choose,
    finalists,
    formula,
    missed,
    score,
    timed_again,
    weights_of,
)

BUDGET = BudgetSpec(min_retention=0.99, max_p95_ms=2.0, max_megabytes=20.0)


def trial(name: str, metric: float, p95: float = 1.0, megabytes: float = 10.0, retention: float | None = None) -> Trial:
    kept = metric / 0.95 if retention is None else retention
    return Trial(name, {}, {"metric": metric, "retention": kept, "p95_ms": p95, "megabytes": megabytes})


def won(*trials: Trial, budget: BudgetSpec = BUDGET, objective: Objective = "accurate") -> str | None:
    """The winner's id, which must not depend on the order of the trials."""
    orders = (trials, trials[::-1])
    found = {winner.id if (winner := choose(order, budget, objective).winner) else None for order in orders}
    assert len(found) == 1
    return found.pop()


def test_the_best_metric_inside_the_budget_wins_where_accuracy_is_asked_for():
    assert won(trial("good", 0.945), trial("better", 0.946)) == "better"


LARGE, SMALL = trial("large", 0.9304, 1.9, 19.8), trial("small", 0.9300, 1.1, 5.0)
SLIM, QUICK = trial("slim", 0.9301, 1.8, 4.0), trial("quick", 0.9302, 0.9, 12.0)
KEPT = BudgetSpec(min_retention=0.97, max_p95_ms=2.0, max_megabytes=20.0)


@pytest.mark.parametrize(
    ("objective", "wins"), [("cheapest", "small"), ("smallest", "slim"), ("fastest", "quick"), ("accurate", "large")]
)
def test_the_objective_decides_inside_the_budget(objective: Objective, wins: str):
    assert won(LARGE, SMALL, SLIM, QUICK, budget=KEPT, objective=objective) == wins


def test_the_cheapest_is_what_is_asked_for_unless_said_otherwise():
    assert SearchSpec().objective == "cheapest"
    winner = choose([LARGE, SMALL, SLIM, QUICK], KEPT).winner
    assert winner is not None and winner.id == "small"


@pytest.mark.parametrize(
    ("weights", "wins"),
    [
        (Weights(p95_ms=1, megabytes=1), "small"),
        (Weights(p95_ms=9, megabytes=1), "quick"),
        (Weights(p95_ms=1, megabytes=3), "slim"),
        (Weights(p95_ms=1, metric=10_000), "large"),
    ],
    ids=str,
)
def test_weights_are_powers_of_the_figures(weights: Weights, wins: str):
    assert won(LARGE, SMALL, SLIM, QUICK, budget=KEPT, objective=weights) == wins


def test_no_objective_buys_a_limit():
    for objective in NAMED:
        assert won(trial("tiny", 0.9, 0.1, 0.1), trial("modest", 0.941), objective=objective) == "modest"


def test_of_candidates_that_cost_the_same_up_to_noise_the_most_accurate_wins():
    """Two trials of one architecture differ in p95 by what a measurement does."""
    slower = 1.0 + ALIKE["p95_ms"]
    assert won(trial("lucky", 0.943), trial("better", 0.946, p95=slower), objective="cheapest") == "better"
    assert won(trial("lucky", 0.943), trial("slower", 0.946, p95=1.2), objective="cheapest") == "lucky"
    assert won(trial("same", 0.945), trial("slow", 0.945, p95=1.01), objective="fastest") == "same"


def test_a_candidate_without_a_figure_that_the_objective_goes_by_cannot_win():
    bare = Trial("bare", {}, {"metric": 0.95, "retention": 1.0})
    loose = BudgetSpec(min_retention=0.9)
    assert won(bare, trial("modest", 0.9), budget=loose, objective="fastest") == "modest"
    choice = choose([bare], loose, "cheapest")
    assert choice.winner is None and choice.nearest is bare
    assert choice.reasons["bare"] == (
        "outside the budget: p95_ms nan (search.objective goes by it), megabytes nan (search.objective goes by it)"
    )
    assert won(bare, budget=loose, objective="accurate") == "bare"


@pytest.mark.parametrize("fields", [{}, {"p95_ms": 0}])
def test_weights_of_which_none_counts_are_refused(fields: dict[str, float]):
    with pytest.raises(ValueError, match="no weight is above 0; give one of metric, p95_ms, megabytes"):
        Weights.model_validate(fields)


def test_an_objective_in_words():
    words = {formula(weights_of(each)) for each in NAMED}
    assert words == {"p95_ms x megabytes", "megabytes", "p95_ms", "metric"}
    assert formula(Weights(metric=20, p95_ms=1)) == "metric^20 / p95_ms"
    assert formula(Weights(metric=1, p95_ms=0.5, megabytes=1)) == "metric / (p95_ms^0.5 x megabytes)"


@pytest.mark.parametrize(
    "outside",
    [
        trial("slow", 0.96, p95=2.01),
        trial("large", 0.96, megabytes=20.1),
        trial("forgetful", 0.96, retention=0.9899),
    ],
    ids=lambda each: each.id,
)
def test_no_limit_can_be_bought_with_a_better_metric(outside: Trial):
    assert won(outside, trial("modest", 0.941)) == "modest"


def test_a_figure_equal_to_its_limit_is_inside():
    assert won(trial("exact", 0.945, p95=2.0, megabytes=20.0, retention=0.99)) == "exact"


def test_an_unset_limit_limits_nothing():
    assert won(trial("huge", 0.95, p95=1e6, megabytes=1e6), budget=BudgetSpec(min_retention=0.9)) == "huge"


def test_equal_metrics_go_by_p95_and_then_by_megabytes():
    assert won(trial("slow", 0.945, p95=1.5, megabytes=1), trial("fast", 0.945, p95=1.4)) == "fast"
    assert won(trial("large", 0.945, megabytes=11), trial("small", 0.945, megabytes=10)) == "small"


def test_a_failed_trial_never_wins_and_says_why():
    failed = Trial("failed", {}, {"metric": 1.0, "retention": 1.1, "p95_ms": 0.1, "megabytes": 1.0}, "ValueError: no")
    assert won(failed, trial("modest", 0.941)) == "modest"
    choice = choose([failed], BUDGET)
    assert choice.winner is None and choice.nearest is None
    assert choice.reasons == {"failed": "failed: ValueError: no"}


@pytest.mark.parametrize("name", ["metric", "retention", "p95_ms", "megabytes"])
@pytest.mark.parametrize("value", [math.nan, None])
def test_a_figure_that_is_no_number_or_missing_is_outside_the_budget(name: str, value: float | None):
    metrics = {**trial("", 0.95).metrics, name: value}
    odd = Trial("odd", {}, {key: each for key, each in metrics.items() if each is not None})
    assert broken(odd.metrics, BUDGET)
    assert missed(odd.metrics, BUDGET).startswith(f"{name} nan")
    assert score(odd.metrics, BUDGET) < 0
    assert won(odd, trial("modest", 0.941)) == "modest"
    assert won(odd) is None


def test_a_metric_that_is_no_number_is_not_the_nearest_either():
    odd, far = trial("odd", math.nan, retention=1.0), trial("far", 0.1, p95=90.0)
    for order in ([odd, far], [far, odd]):
        choice = choose(order, BUDGET)
        assert choice.winner is None
        assert choice.nearest is not None and choice.nearest.id == "far"


def test_where_nothing_fits_the_nearest_is_named_with_the_limits_it_broke():
    near, far = trial("near", 0.945, p95=2.1), trial("far", 0.8, p95=9.0, megabytes=90.0)
    choice = choose([far, near], BUDGET)
    assert choice.winner is None
    assert choice.nearest is near
    assert choice.reasons["near"] == "outside the budget: p95_ms 2.1 (limit max_p95_ms=2)"
    assert [word in choice.reasons["far"] for word in ("min_retention", "max_p95_ms", "max_megabytes")] == [True] * 3


def finals(*trials: Trial, budget: BudgetSpec = BUDGET) -> set[str]:
    return {each.id for each in finalists(trials, budget, functools.partial(choose, budget=budget))}


def noisy(one: Trial, **figures: float) -> Trial:
    return replace(one, metrics={**one.metrics, **figures})


def test_whoever_is_near_a_limit_of_time_is_timed_again_on_either_side_of_it():
    near, over = trial("near", 0.941, p95=1.75), trial("over", 0.9409, p95=2.25)
    far, slow = trial("far", 0.9401, p95=1.5), trial("slow", 0.95, p95=3.0)
    best = [trial(f"best{number}", 0.946, p95=0.1, megabytes=1.0) for number in range(1 + RIVALS)]
    assert finals(*best, near, over, far, slow) == {*(each.id for each in best), "near", "over"}
    assert finals(*best, near, over, budget=BudgetSpec()) == {each.id for each in best}


def test_a_trial_that_another_limit_keeps_out_is_not_timed_again():
    outside = [trial("forgetful", 0.9, p95=2.0), trial("large", 0.945, p95=2.0, megabytes=21.0)]
    failed = Trial("failed", {}, trial("", 0.945, p95=2.0).metrics, "ValueError: no")
    assert finals(*outside, failed, trial("good", 0.945), trial("other", 0.945)) == {"good", "other"}


def test_a_trial_that_was_too_slow_on_a_busy_machine_or_between_its_blocks_is_timed_again():
    """Two trials of one architecture measured 7.3 and 58 ms; the better one was thrown out."""
    good, slow = trial("good", 0.941, p95=0.1), trial("slow", 0.946, p95=16.0)
    slow = noisy(slow, p50_ms=2.5)
    assert finals(good, slow) == set()
    assert finals(good, noisy(slow, busy=0.05)) == set(), "its calls had the CPU"
    assert finals(good, noisy(slow, busy=0.1)) == set(), "its median call was too slow, too"
    assert finals(good, noisy(slow, busy=0.3)) == {"good", "slow"}
    assert finals(good, noisy(slow, p50_ms=1.9, p95_ms_others_high=19.0)) == {"good", "slow"}
    assert finals(noisy(good, p95_ms_others_high=2.5)) == {"good"}


def test_a_trial_that_would_be_among_the_best_without_noise_is_timed_again_whatever_is_best():
    def fastest(trials: Sequence[Trial]) -> Choice:
        return Choice(min(trials, key=lambda each: each.metrics["p95_ms"], default=None), None, {})

    fast = [trial(f"fast{number}", 0.945, p95=1.1 + number / 100) for number in range(1 + RIVALS)]
    slow = noisy(trial("slow", 0.945, p95=1.9), p50_ms=1.7, busy=0.01, p95_ms_others_high=1.95)
    unlucky = noisy(trial("unlucky", 0.945, p95=1.9), p50_ms=1.1, busy=0.28, p95_ms_others_high=1.95)
    found = finalists([*fast, slow, unlucky], BudgetSpec(), fastest)
    assert [each.id for each in found] == [*(each.id for each in fast), "unlucky"]
    assert found[-1] is unlucky, "with what was measured"


def test_the_figures_of_the_search_stay_beside_the_final_ones():
    before = noisy(trial("a", 0.945, p95=58.0), busy=0.8)
    after = timed_again(before, {"p95_ms": 7.3, "busy": 0.0, "batch1_tokens32_p95_ms": 7.3})
    assert after.metrics == {
        **before.metrics,
        "p95_ms": 7.3,
        "p95_ms_in_search": 58.0,
        "busy": 0.0,
        "busy_in_search": 0.8,
        "batch1_tokens32_p95_ms": 7.3,
    }


def test_every_trial_has_its_reason():
    trials = [trial("a", 0.945), trial("b", 0.943), trial("c", 0.945, p95=1.9), trial("d", 0.9)]
    reasons = choose(trials, BUDGET, "accurate").reasons
    assert reasons["a"].startswith("won: most accurate of 3 inside the budget by metric, with the best figures of 2 ")
    assert reasons["b"].startswith("inside the budget, 0.0020 behind the winner: metric 0.943")
    assert reasons["c"].startswith("inside the budget and as accurate as the winner, but slower or larger: metric")
    assert reasons["d"].startswith("outside the budget: retention 0.9474 (limit min_retention=0.99)")


def test_reasons_go_by_the_objective():
    trials = [trial("a", 0.945), trial("b", 0.943, p95=1.01), trial("c", 0.949, p95=1.9, megabytes=20)]
    reasons = choose(trials, BUDGET, "cheapest").reasons
    best = "won: cheapest of 3 inside the budget by p95_ms x megabytes, with the best figures of 2 as cheap: metric"
    assert reasons["a"].startswith(best)
    assert reasons["b"].startswith("inside the budget and as cheap as the winner, but 0.0020 behind it in metric: ")
    assert reasons["c"].startswith("inside the budget, 3.80x as dear as the winner by p95_ms x megabytes: metric 0.949")
    reasons = choose(trials, BUDGET, Weights(p95_ms=1, metric=2)).reasons
    assert reasons["a"].startswith("won: best of 3 inside the budget by metric^2 / p95_ms, with the best figures of 2")
    assert reasons["c"].startswith("inside the budget, 1.88x worse than the winner by metric^2 / p95_ms: metric 0.949")


def test_no_trials_have_no_winner():
    choice = choose([], BUDGET)
    assert (choice.winner, choice.nearest, choice.reasons) == (None, None, {})


EXTREMES = [(0.0, 1.0, 1.0), (1e300, 1e-300, 1e-300), (1e-300, 2.0, 20.0), (0.5, 0.0, 0.0)]


@pytest.mark.parametrize("objective", [*NAMED, Weights(metric=30, p95_ms=2, megabytes=0.5)], ids=str)
def test_whatever_is_outside_scores_below_whatever_is_inside(objective: Objective):
    chance = random.Random(0)
    inside, outside = [], []
    for _ in range(2000):
        each = trial("", chance.uniform(0, 1), chance.uniform(0, 4), chance.uniform(0, 40), chance.uniform(0.98, 1.0))
        (outside if broken(each.metrics, BUDGET) else inside).append(score(each.metrics, BUDGET, objective))
    outside += [score({"metric": math.nan}, BUDGET, objective), score({}, BUDGET, objective)]
    inside += [score(trial("", *figures, retention=1.0).metrics, BUDGET, objective) for figures in EXTREMES]
    edge = trial("", 0.99, p95=math.nextafter(2.0, 3.0), retention=1.0)
    outside.append(score(edge.metrics, BUDGET, objective))
    assert len(inside) > 100 and len(outside) > 100
    assert max(outside) < 0 < min(inside)
    assert all(map(math.isfinite, inside + outside))


def sure(name: str, retention: float, error: float, metric: float = 0.945) -> Trial:
    """Inside all other limits."""
    return Trial(name, {}, {**trial("", metric, retention=retention).metrics, "retention_se": error})


def test_retention_is_held_with_a_margin_of_standard_errors():
    assert won(sure("safe", 0.993, 0.002), sure("lucky", 0.995, 0.006, metric=0.948)) == "safe"
    bold = BUDGET.model_copy(update={"margin": 0.0})
    assert won(sure("safe", 0.993, 0.002), sure("lucky", 0.995, 0.006, metric=0.948), budget=bold) == "lucky"
    timid = BUDGET.model_copy(update={"margin": 2.0})
    assert won(sure("safe", 0.993, 0.002), budget=timid) is None
    assert BudgetSpec().margin == 1


def test_the_margin_is_said_where_it_decides():
    choice = choose([sure("lucky", 0.992, 0.004)], BUDGET)
    reason = "outside the budget: retention 0.992 less 1 standard error 0.004 = 0.988 (limit min_retention=0.99)"
    assert choice.winner is None and choice.reasons["lucky"] == reason
    assert broken(sure("", 0.992, 0.004).metrics, BUDGET) == {"min_retention": pytest.approx(0.002 / 0.99)}
    reason = choose([sure("safe", 0.998, 0.002)], BUDGET).reasons["safe"]
    assert "metric 0.945, retention 0.998 less 1 standard error 0.002 = 0.996, p95_ms 1" in reason
    timid = BUDGET.model_copy(update={"margin": 2.5})
    assert (
        "retention 0.998 less 2.5 standard errors of 0.002 = 0.993"
        in choose([sure("safe", 0.998, 0.002)], timid).reasons["safe"]
    )


def test_what_was_judged_on_other_rows_has_no_margin():
    assert won(trial("test rows", 0.945, retention=0.99)) == "test rows"
    assert won(sure("odd", 1.0, math.nan)) is None


def test_missing_a_limit_by_more_scores_less():
    scores = [score(trial("", 0.95, p95=p95).metrics, BUDGET) for p95 in (2.5, 3.0, 9.0)]
    assert scores == sorted(scores, reverse=True)
    assert score(trial("", 0.95, p95=2.5, megabytes=25.0).metrics, BUDGET) < scores[0]


def test_inside_the_budget_the_score_follows_the_objective():
    dear, cheap = (trial("", metric, p95).metrics for metric, p95 in ((0.949, 1.8), (0.945, 1.2)))
    assert score(dear, BUDGET, "accurate") == pytest.approx(0.949)
    assert score(cheap, BUDGET, "cheapest") == pytest.approx(1 / (1.2 * 10))
    assert score(cheap, BUDGET, "cheapest") > score(dear, BUDGET, "cheapest")


def test_time_by_token_is_a_limit_of_what_writes_and_makes_finalists_of_trials_near_it():
    budget = BudgetSpec(min_retention=0.9, max_ms_per_token=1.0)
    paces = {"quick": 0.3, "near": 1.1, "slow": 3.0}
    trials = [replace(each, metrics={**each.metrics, "ms_per_token": paces[each.id]}) for each in map(named, paces)]
    choice = choose(trials, budget)
    assert choice.winner is not None and choice.winner.id == "quick"
    assert "ms_per_token 3 (limit max_ms_per_token=1)" in choice.reasons["slow"]
    assert broken(trial("unknown", 0.94).metrics, budget) == {"max_ms_per_token": math.inf}
    assert [each.id for each in finalists(trials, budget, functools.partial(choose, budget=budget))] == [
        "quick",
        "near",
    ]


def named(name: str) -> Trial:
    return trial(name, 0.94)
