"""The choice: the best candidate inside the budget, and in words why it won and why the others did not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from configs.schema.search import NAMED, BudgetSpec, Objective, Weights

METRIC = "metric"  # `retention` is its share of the teacher's
BUSY = 0.05  # share of the time that a call was kept from the CPU, above which its machine is called busy
NEAR = 0.15  # share of a limit of time, on either side, within which noise may say who is inside
RIVALS = 3  # the next best after the winner
IN_SEARCH = "_in_search"  # ending of a figure's name that holds the search's value once it was timed again
PACE = "ms_per_token"
HELD, SENT_ERRORS = SENT = ("held", "sent_slot_error_rate")  # shares of texts that are held back, and of their errors
TIMED = ("p50_ms", "p95_ms", "p95_ms_others_low", "p95_ms_others_high", "busy", PACE)  # noise changes them
RETENTION = "retention"
ERROR_OF_RETENTION = "retention_se"  # its standard error; 0 where a candidate has none
LIMITS = (  # field of the budget, metric it limits, sign: +1 at most, -1 at least
    ("min_retention", RETENTION, -1),
    ("max_p95_ms", "p95_ms", 1),
    ("max_ms_per_token", PACE, 1),
    ("max_megabytes", "megabytes", 1),
    ("max_held", HELD, 1),
    ("max_slot_errors", SENT_ERRORS, 1),
)
TIME_LIMITS = {"max_p95_ms": "p95_ms", "max_ms_per_token": PACE}  # within `NEAR` of which noise may decide
SIGNS = {METRIC: 1, "p95_ms": -1, "megabytes": -1}  # -1: less of it is better
ALIKE = {METRIC: 0.0, "p95_ms": 0.05, "megabytes": 0.01}  # share by which two candidates of one architecture differ
TERMS = {  # of an objective: superlative, equal, by how many times a loser is worse
    "cheapest": ("cheapest", "as cheap as", "as dear as"),
    "smallest": ("smallest", "as small as", "as large as"),
    "fastest": ("fastest", "as fast as", "as slow as"),
    "accurate": ("most accurate", "as accurate as", "behind"),
}
LARGEST = 700.0  # whose exp() is a float
WORST = -1e6  # score


@dataclass(frozen=True)
class Trial:
    """One candidate: the values it was made with, and what was measured or why it failed."""

    id: str
    values: Mapping[str, object]
    metrics: Mapping[str, float]
    error: str | None = None
    by: str = ""  # run of the search that made it


@dataclass(frozen=True)
class Choice:
    """`winner` is None where no candidate fits the budget; then `nearest` is the one that broke it least."""

    winner: Trial | None
    nearest: Trial | None
    reasons: dict[str, str]  # by trial id


def broken(metrics: Mapping[str, float], budget: BudgetSpec) -> dict[str, float]:
    """The miss of each broken limit, as a share of the limit; empty inside the budget.

    A metric that is no number breaks every budget.
    """
    shares = {} if math.isfinite(metrics.get(METRIC, math.nan)) else {METRIC: math.inf}
    for field, name, sign in LIMITS:
        limit = getattr(budget, field)
        if limit is None:
            continue
        value = held(metrics, name, budget)
        if not sign * value <= sign * limit:  # NaN breaks every limit
            shares[field] = abs(value - limit) / limit if math.isfinite(value) and limit else math.inf
    return shares


def held(metrics: Mapping[str, float], name: str, budget: BudgetSpec) -> float:
    """The value that a limit of `name` is compared with; retention is lowered by `budget.margin` standard errors."""
    value = metrics.get(name, math.nan)
    return value - budget.margin * metrics.get(ERROR_OF_RETENTION, 0.0) if name == RETENTION else value


def missed(metrics: Mapping[str, float], budget: BudgetSpec) -> str:
    """Each broken limit with its value, in words; empty inside the budget."""
    fields = broken(metrics, budget)
    words = [f"{METRIC} {metrics.get(METRIC, math.nan)}"] if METRIC in fields else []
    words += [
        f"{_worded(metrics, name, budget)} (limit {field}={getattr(budget, field):g})"
        for field, name, _ in LIMITS
        if field in fields
    ]
    return ", ".join(words)


def worth(metrics: Mapping[str, float], weights: Weights) -> float:
    """ln of metric^a / (p95_ms^b x megabytes^c), within what exp() takes; nan where a figure that counts is missing."""
    figures = [
        (SIGNS[name] * weight, metrics.get(name, math.nan)) for name, weight in weights.model_dump().items() if weight
    ]
    if not all(math.isfinite(figure) for _, figure in figures):
        return math.nan
    total = sum(power * (math.log(figure) if figure > 0 else -LARGEST) for power, figure in figures)
    return min(LARGEST, max(-LARGEST, total))


def _worded(metrics: Mapping[str, float], name: str, budget: BudgetSpec) -> str:
    """A figure after its margin, in words: `retention 0.992 less 1 standard error 0.004 = 0.988`."""
    words, error = f"{name} {metrics.get(name, math.nan):.4g}", metrics.get(ERROR_OF_RETENTION)
    if name != RETENTION or error is None or not budget.margin:
        return words
    errors = "standard error" if budget.margin == 1 else "standard errors of"
    return f"{words} less {budget.margin:g} {errors} {error:.2g} = {held(metrics, name, budget):.4g}"


def score(metrics: Mapping[str, float], budget: BudgetSpec, objective: Objective = "cheapest") -> float:
    """What the search maximises: the worth of a candidate by the objective, above 0, inside the budget; outside it,
    minus the distance from the budget."""
    if shares := broken(metrics, budget):
        return max(WORST, -sum(shares.values()))
    value = worth(metrics, weights_of(objective))
    return math.exp(value) if math.isfinite(value) else WORST


class Parts(NamedTuple):
    """What a trial came to, for samplers that take several objectives, or constraints."""

    values: list[float]  # larger is better, each; nan where it is not known
    limits: dict[str, float]  # above 0 where a limit is broken, by its field
    worth: float  # by the objective, whatever is broken


def parts(metrics: Mapping[str, float], budget: BudgetSpec, objective: Objective = "cheapest") -> Parts:
    """The metric and the figures of the objective on a log scale, and how far each limit of the budget is."""
    weights = weights_of(objective)
    names = [name for name, weight in weights.model_dump().items() if weight or name == METRIC]
    values = [SIGNS[name] * math.log(max(metrics.get(name, math.nan), math.exp(-LARGEST))) for name in names]
    limits = {
        field: sign * (held(metrics, name, budget) - limit) / (limit or 1.0)
        for field, name, sign in LIMITS
        if (limit := getattr(budget, field)) is not None
    }
    return Parts(values, limits, worth(metrics, weights))


def terms(budget: BudgetSpec, objective: Objective) -> dict[str, Any]:
    """All terms of a choice, as JSON."""
    limits = {field: getattr(budget, field) for field in (*(field for field, _, _ in LIMITS), "margin")}
    return {"limits": limits, "objective": weights_of(objective).model_dump()}


def weights_of(objective: Objective) -> Weights:
    """An objective as the powers of its figures."""
    return objective if isinstance(objective, Weights) else NAMED[objective]


def formula(weights: Weights) -> str:
    """The compared value in words: `p95_ms x megabytes`, or `metric^20 / p95_ms`."""
    parts: dict[int, list[str]] = {1: [], -1: []}
    for name, power in weights.model_dump().items():
        if power:
            parts[SIGNS[name]].append(name if power == 1 else f"{name}^{power:g}")
    above, below = (" x ".join(parts[sign]) for sign in (1, -1))
    if not above:
        return below
    return f"{above} / ({below})" if " x " in below else " / ".join(filter(None, [above, below]))


def superlative(objective: Objective) -> str:
    """The winner's title among the trials inside the budget: `cheapest`."""
    return "best" if isinstance(objective, Weights) else TERMS[objective][0]


def choose(trials: Sequence[Trial], budget: BudgetSpec, objective: Objective = "cheapest") -> Choice:
    """The best trial inside the budget by the objective.

    Trials are equally good where their figures differ no more than two measurements of one candidate do (`ALIKE`); the
    highest metric wins among them, then the lowest p95, then the fewest megabytes.
    """
    weights = weights_of(objective)
    finished = [trial for trial in trials if trial.error is None]
    worths = {trial.id: worth(trial.metrics, weights) for trial in finished}
    inside = [trial for trial in finished if not _outside(trial.metrics, budget, weights)]
    least = max((worths[trial.id] for trial in inside), default=0.0) - _slack(weights)
    alike = [trial for trial in inside if worths[trial.id] >= least]
    winner = max(alike, key=_rank, default=None)
    nearest = max(finished, key=lambda trial: (score(trial.metrics, budget, objective), *_rank(trial)), default=None)
    reasons = {trial.id: _reason(trial, budget, weights) for trial in trials}
    if winner is not None:
        for trial in inside:
            behind = _behind(trial, winner, objective, trial in alike)
            reasons[trial.id] = f"inside the budget{behind}: {_figures(trial.metrics, budget)}"
        best = f"{superlative(objective)} of {len(inside)} inside the budget by {formula(weights)}"
        if len(alike) > 1:
            best += f", with the best figures of {len(alike)} {_term(objective, 1).removesuffix(' as')}"
        reasons[winner.id] = f"won: {best}: {_figures(winner.metrics, budget)}"
    return Choice(winner, nearest, reasons)


def finalists(trials: Sequence[Trial], budget: BudgetSpec, choose: Callable[[Sequence[Trial]], Choice]) -> list[Trial]:
    """Trials whose times decide the choice, so that they have to be timed again, together.

    They are the winner and the next best, by `choose`; trials that would be among these without disturbed calls; and
    trials inside all limits but perhaps those of time, where one is near their figure or between their blocks. Empty
    where there is one trial alone, far from these limits.
    """
    best = _best(trials, choose) | _best([_undisturbed(trial) for trial in trials], choose)
    unsure = {trial.id for trial in trials if trial.error is None and _time_decides(trial.metrics, budget)}
    if not unsure and len(best) < 2:
        return []
    return [trial for trial in trials if trial.id in best | unsure]


def _best(trials: Sequence[Trial], choose: Callable[[Sequence[Trial]], Choice]) -> set[str]:
    """Ids of the winner, and of the trials that win next once the winners before them are taken away."""
    left, winners = list(trials), set[str]()
    while len(winners) <= RIVALS and (winner := choose(left).winner):
        winners.add(winner.id)
        left = [trial for trial in left if trial.id != winner.id]
    return winners


def _undisturbed(trial: Trial) -> Trial:
    """The trial with the p95 that it might have had in quiet: in noise, its median call's time on the CPU."""
    p95, high = trial.metrics.get("p95_ms", math.nan), trial.metrics.get("p95_ms_others_high", math.nan)
    busy = trial.metrics.get("busy", 0.0)
    if busy <= BUSY and not high > (1 + NEAR) * p95:
        return trial
    median = trial.metrics.get("p50_ms", p95) * (1 - busy)
    return replace(trial, metrics={**trial.metrics, "p95_ms": min(p95, median)})


def _time_decides(metrics: Mapping[str, float], budget: BudgetSpec) -> bool:
    if broken(metrics, budget).keys() - TIME_LIMITS.keys():
        return False
    for field, name in TIME_LIMITS.items():
        limit, value = getattr(budget, field), metrics.get(name, math.nan)
        if limit is None or not math.isfinite(value):
            continue
        if abs(value - limit) <= NEAR * limit or value <= limit < metrics.get(f"{name}_others_high", value):
            return True
    return False


def timed_again(trial: Trial, figures: Mapping[str, float]) -> Trial:
    """The trial with new `figures` of time; the search's figures stay beside them under names that say so."""
    before = {f"{name}{IN_SEARCH}": trial.metrics[name] for name in TIMED if name in trial.metrics}
    return replace(trial, metrics={**trial.metrics, **before, **figures})


def _outside(metrics: Mapping[str, float], budget: BudgetSpec, weights: Weights) -> str:
    """Each broken limit, or a figure that the objective lacks, in words; empty inside the budget."""
    missing = [name for name, weight in weights.model_dump().items() if weight and name != METRIC]
    missing = [name for name in missing if not math.isfinite(metrics.get(name, math.nan))]
    words = missed(metrics, budget)
    others = [f"{name} nan (search.objective goes by it)" for name in missing if f"{name} nan" not in words]
    return ", ".join(filter(None, [words, *others]))


def _slack(weights: Weights) -> float:
    return sum(weight * math.log1p(ALIKE[name]) for name, weight in weights.model_dump().items())


def _rank(trial: Trial) -> tuple[float, float, float]:
    figures = [sign * trial.metrics.get(name, math.nan) for name, sign in SIGNS.items()]
    metric, speed, smallness = (-math.inf if math.isnan(each) else each for each in figures)
    return metric, speed, smallness


def _term(objective: Objective, place: int) -> str:
    return ("best", "as good as", "worse than")[place] if isinstance(objective, Weights) else TERMS[objective][place]


def _reason(trial: Trial, budget: BudgetSpec, weights: Weights) -> str:
    if trial.error is not None:
        return f"failed: {trial.error}"
    if words := _outside(trial.metrics, budget, weights):
        return f"outside the budget: {words}"
    return _figures(trial.metrics, budget)


def _behind(trial: Trial, winner: Trial, objective: Objective, alike: bool) -> str:
    """The lack of a trial inside the budget, in words."""
    less = winner.metrics[METRIC] - trial.metrics[METRIC]
    if alike:
        but = f"{less:.4f} behind it in {METRIC}" if less else "slower or larger"
        return f" and {_term(objective, 1)} the winner, but {but}"
    if objective == "accurate":
        return f", {less:.4f} behind the winner"
    weights = weights_of(objective)
    times = math.exp(min(LARGEST, worth(winner.metrics, weights) - worth(trial.metrics, weights)))
    return f", {times:.2f}x {_term(objective, 2)} the winner by {formula(weights)}"


def _figures(metrics: Mapping[str, float], budget: BudgetSpec) -> str:
    names = (METRIC, RETENTION, "p95_ms", PACE, "megabytes", *SENT)
    return ", ".join(_worded(metrics, name, budget) for name in names if name in metrics)
