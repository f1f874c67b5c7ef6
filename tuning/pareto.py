"""The choice: the best candidate inside the budget, and in words why it won and what each other missed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tuning.spec import BudgetSpec

METRIC = "metric"  # what is maximised inside the budget
BUSY = 0.05  # share of the time that a call was kept from the CPU, above which its machine is called busy
NEAR = 0.15  # share of `max_p95_ms`, on either side, within which noise may say who is inside
RIVALS = 3  # the next best after the winner
IN_SEARCH = "_in_search"  # ends the name of a figure that was taken again after the search
TIMED = ("p50_ms", "p95_ms", "p95_ms_others_low", "p95_ms_others_high", "busy")  # what noise changes of a trial
LIMITS = (  # field of the budget, metric it limits, sign: +1 at most, -1 at least
    ("min_retention", "retention", -1),
    ("max_p95_ms", "p95_ms", 1),
    ("max_megabytes", "megabytes", 1),
)


@dataclass(frozen=True)
class Trial:
    """One candidate: the values it was made with, and what was measured or why it failed."""

    id: str
    values: Mapping[str, object]
    metrics: Mapping[str, float]
    error: str | None = None


@dataclass(frozen=True)
class Choice:
    """`winner` is None where nothing fits the budget; then `nearest` is the candidate that broke it least."""

    winner: Trial | None
    nearest: Trial | None
    reasons: dict[str, str]  # by trial id


def broken(metrics: Mapping[str, float], budget: BudgetSpec) -> dict[str, float]:
    """How far each broken limit is missed, as a share of the limit; empty inside the budget.

    A metric that is no number breaks every budget.
    """
    shares = {} if math.isfinite(metrics.get(METRIC, math.nan)) else {METRIC: math.inf}
    for field, name, sign in LIMITS:
        limit = getattr(budget, field)
        if limit is None:
            continue
        value = metrics.get(name, math.nan)
        if not sign * value <= sign * limit:  # NaN breaks every limit
            shares[field] = abs(value - limit) / limit if math.isfinite(value) and limit else math.inf
    return shares


def missed(metrics: Mapping[str, float], budget: BudgetSpec) -> str:
    """Each broken limit with its value, in words; empty inside the budget."""
    fields = broken(metrics, budget)
    words = [f"{METRIC} {metrics.get(METRIC, math.nan)}"] if METRIC in fields else []
    words += [
        f"{name} {metrics.get(name, math.nan):.4g} (limit {field}={getattr(budget, field):g})"
        for field, name, _ in LIMITS
        if field in fields
    ]
    return ", ".join(words)


def score(metrics: Mapping[str, float], budget: BudgetSpec) -> float:
    """What the search maximises: the metric (never negative) inside the budget, else below zero by how far outside."""
    if shares := broken(metrics, budget):
        return -min(1e6, sum(shares.values()))
    return metrics[METRIC]


def choose(trials: Sequence[Trial], budget: BudgetSpec) -> Choice:
    """The trial with the best metric inside the budget; equal ones by lower p95, then by fewer megabytes."""
    finished = [trial for trial in trials if trial.error is None]
    inside = [trial for trial in finished if not broken(trial.metrics, budget)]
    winner = max(inside, key=_rank, default=None)
    nearest = max(finished, key=lambda trial: (score(trial.metrics, budget), *_rank(trial)), default=None)
    reasons = {trial.id: _reason(trial, winner, budget) for trial in trials}
    if winner is not None:
        reasons[winner.id] = f"won: best of {len(inside)} inside the budget, {_figures(winner.metrics)}"
    return Choice(winner, nearest, reasons)


def finalists(trials: Sequence[Trial], budget: BudgetSpec, choose: Callable[[Sequence[Trial]], Choice]) -> list[Trial]:
    """Those whose times decide the choice, so that they have to be taken again, together.

    They are the winner and the next best, by `choose`; and whoever is inside all limits but perhaps that of time, where
    `max_p95_ms` is near its p95 or between its blocks, or where it is outside and was measured on a busy machine. Empty
    where one trial alone is far from that limit.
    """
    left, best = list(trials), list[Trial]()
    while len(best) <= RIVALS and (winner := choose(left).winner):
        best.append(winner)
        left = [trial for trial in left if trial.id != winner.id]
    unsure = {trial.id for trial in trials if trial.error is None and _time_decides(trial.metrics, budget)}
    if not unsure and len(best) < 2:
        return []
    return [trial for trial in trials if trial.id in unsure or trial in best]


def _time_decides(metrics: Mapping[str, float], budget: BudgetSpec) -> bool:
    limit, p95 = budget.max_p95_ms, metrics.get("p95_ms", math.nan)
    if limit is None or not math.isfinite(p95) or broken(metrics, budget).keys() - {"max_p95_ms"}:
        return False
    near = abs(p95 - limit) <= NEAR * limit or p95 <= limit < metrics.get("p95_ms_others_high", p95)
    return near or (p95 > limit and metrics.get("busy", 0.0) > BUSY)


def timed_again(trial: Trial, figures: Mapping[str, float]) -> Trial:
    """With `figures` of time in place of those of the search, which stay beside them under names that say so."""
    before = {f"{name}{IN_SEARCH}": trial.metrics[name] for name in TIMED if name in trial.metrics}
    return replace(trial, metrics={**trial.metrics, **before, **figures})


def _rank(trial: Trial) -> tuple[float, float, float]:
    signs = ((METRIC, 1), ("p95_ms", -1), ("megabytes", -1))
    figures = [sign * trial.metrics.get(name, math.nan) for name, sign in signs]
    metric, speed, smallness = (-math.inf if math.isnan(each) else each for each in figures)
    return metric, speed, smallness


def _reason(trial: Trial, winner: Trial | None, budget: BudgetSpec) -> str:
    if trial.error is not None:
        return f"failed: {trial.error}"
    if words := missed(trial.metrics, budget):
        return f"outside the budget: {words}"
    if winner is None or winner.id == trial.id:
        return _figures(trial.metrics)
    behind = winner.metrics[METRIC] - trial.metrics[METRIC]
    if behind:
        return f"inside the budget, {behind:.4f} behind the winner: {_figures(trial.metrics)}"
    return f"inside the budget and as good as the winner, but slower or larger: {_figures(trial.metrics)}"


def _figures(metrics: Mapping[str, float]) -> str:
    names = (METRIC, "retention", "p95_ms", "megabytes")
    return ", ".join(f"{name} {metrics[name]:.4g}" for name in names if name in metrics)
