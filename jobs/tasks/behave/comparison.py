"""Models of next items beside all baselines: one table, and first of all whether a model is behind one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from configs.loader import UsageError
from jobs.measure.bootstrap import interval, resampled
from jobs.tasks.behave.baselines import BASELINES, Log, chosen
from jobs.tasks.behave.metrics import METRIC, Ranking, Scorer, by_customer, mean, metrics, ranked, values
from jobs.tasks.behave.splits import Question


class Difference(NamedTuple):
    """How far a model is before a baseline, by `METRIC`, with the ends of the 95 % interval over customers."""

    baseline: str
    value: float
    low: float
    high: float


class Comparison(NamedTuple):
    """What models and baselines reach on the same questions."""

    rows: dict[str, dict[str, float]]  # metrics by contender, models first, then baselines
    settings: dict[str, Mapping[str, float]]  # of the baselines, as validation chose them
    left_out: dict[str, str]  # why a baseline could not be fitted, by its name
    differences: dict[str, Difference]  # of each model from the best baseline

    def said(self) -> list[str]:
        """A line for each model, those behind a baseline first."""
        order = sorted(self.differences, key=lambda name: self.differences[name].high >= 0)
        return [_line(name, self.rows[name][METRIC], self.differences[name]) for name in order]


def compared(
    models: Mapping[str, Scorer],
    log: Log,
    validation: Sequence[Question],
    test: Sequence[Question],
    repeats: bool = True,
) -> Comparison:
    """`models` beside the baselines fitted to `log`, whose settings `validation` chooses.

    The best baseline is the best of the test questions, the hardest to be held against. Raises `UsageError` where
    nothing is left to ask without `repeats`.
    """
    for name, questions in (("validation", validation), ("test", test)):
        if not repeats and not any({*each.wanted} - {*each.known.items} for each in questions):
            raise UsageError(f"the {name} questions want nothing that is new to a customer; compare with repeats")
    found = {name: chosen(name, log, validation, repeats) for name in BASELINES}
    fitted = {name: each for name, each in found.items() if not isinstance(each, str)}
    scorers = {**models, **{name: each.scorer for name, each in fitted.items()}}
    rankings = {name: ranked(each, test, log.catalogue, repeats) for name, each in scorers.items()}
    rows = {name: metrics(each, log.catalogue) for name, each in rankings.items()}
    best = max(fitted, key=lambda name: rows[name][METRIC])
    return Comparison(
        rows,
        {name: each.setting for name, each in fitted.items()},
        {name: each for name, each in found.items() if isinstance(each, str)},
        {name: _difference(rankings[name], rankings[best], best) for name in models},
    )


def _difference(mine: Sequence[Ranking], theirs: Sequence[Ranking], baseline: str) -> Difference:
    """The mean over the same questions, of which each customer is drawn for both."""
    value_Q = values(mine)[METRIC] - values(theirs)[METRIC]
    sums_CS = by_customer(value_Q, [each.customer for each in mine])
    return Difference(baseline, mean(sums_CS.sum(axis=0)), *interval(resampled(sums_CS, mean)))


def _line(name: str, value: float, difference: Difference) -> str:
    what = f"{name}: {METRIC} {value:.4f}"
    ends = f"{difference.low:+.4f} to {difference.high:+.4f} over customers"
    place = "behind" if difference.high < 0 else "before" if difference.low > 0 else "no surer than chance apart from"
    return f"{what}, {place} the best baseline, {difference.baseline} ({difference.value:+.4f}, {ends})"
