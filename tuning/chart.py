"""The report's picture: metric over p95 latency of all trials, as places and words for the template to draw."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from configs.schema.search import BudgetSpec
from tuning.pareto import HELD, METRIC, PACE, SENT_ERRORS, broken

FIGURES = {
    METRIC: "metric",
    "retention": "retention",
    "p95_ms": "p95, ms",
    PACE: "ms a token",
    "megabytes": "MB",
    HELD: "held back",
    SENT_ERRORS: "slot errors sent",
}
SOME = (PACE, HELD, SENT_ERRORS)  # that only what writes has, or only what is checked
DASH = "-"  # where a figure is missing
WIDTH, HEIGHT = 680, 440
LEFT, RIGHT, TOP, BOTTOM = 72, 664, 48, 378  # edges of the plot inside the picture
FRAME = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM}  # for templates
LARGEST = 16.0  # radius of the largest circle
LOG_FROM = 8  # largest over smallest latency from which the axis is logarithmic
SHOWN_BELOW = 0.03  # share of the best metric shown below the least allowed metric; collapsed trials lie lower


def figure(value: float | None, name: str) -> str:
    """A measured figure with the digits that mean something; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return DASH
    digits = {METRIC: ".4f", "retention": ".2%", "megabytes": ".1f", HELD: ".2%", SENT_ERRORS: ".2%"}
    return format(value, digits.get(name, ".2f"))


def fits(trial: Mapping[str, Any], budget: BudgetSpec) -> bool:
    """Whether a trial was measured and is inside the budget."""
    return trial["error"] is None and not broken(trial["metrics"], budget)


def draw(
    trials: Sequence[Mapping[str, Any]], won: str | None, budget: BudgetSpec, teacher_metric: float, best: str
) -> dict[str, Any] | None:
    """Metric over p95 latency of every measured trial, as numbers of the picture; None where nothing was measured.

    `best` is the winner's title among the trials inside the budget.
    """
    drawn = [
        trial
        for trial in trials
        if all(math.isfinite(trial["metrics"].get(name, math.nan)) for name in (METRIC, "p95_ms"))
    ]
    if not drawn:
        return None
    least, most = budget.min_retention * teacher_metric, budget.max_p95_ms
    heights = [trial["metrics"][METRIC] for trial in drawn]
    latencies = [trial["metrics"]["p95_ms"] for trial in drawn]
    top = max(*heights, least)
    bottom = max(min(*heights, least), min(least, max(heights)) - SHOWN_BELOW * top)
    margin = (top - bottom or abs(top) or 1.0) * 0.12
    across = [*latencies, *([most] if most else [])]
    log = min(across) > 0 and max(across) / min(across) > LOG_FROM
    x = Axis(min(across) / 1.3 if log else 0.0, max(across) * (1.3 if log else 1.12) or 1.0, LEFT, RIGHT, log)
    y = Axis(bottom - margin, top + margin, BOTTOM, TOP)
    largest = max((trial["metrics"].get("megabytes", 0.0) for trial in drawn), default=0.0) or 1.0
    points = [_point(trial, trial["id"] == won, budget, x, y, largest) for trial in drawn]
    points.sort(key=lambda point: (point["kind"] == "winner", -point["radius"]))  # small ones lie above large ones
    limit_x, limit_y = x.at(most) if most else None, y.at(least)
    lower = sum(height < y.low for height in heights)
    return {
        **FRAME,
        "log": log,
        "x_ticks": [(x.at(tick), f"{tick:g}") for tick in x.ticks()],
        "y_ticks": [(y.at(tick), f"{tick:g}") for tick in y.ticks()],
        "limit_x": limit_x,
        "limit_y": limit_y,
        "limit_anchor": _anchor(limit_x or 0),
        "least": f"at least {figure(least, METRIC)}",
        "most": f"at most {most:g} ms" if most else "",
        "room": {"x": LEFT, "y": TOP, "width": (limit_x or RIGHT) - LEFT, "height": limit_y - TOP},
        "points": points,
        "words": f"{len(drawn)} trials by {METRIC} over p95 latency; the figures are in the table of trials",
        "caption": _caption(len(trials) - len(drawn), lower, largest, budget, best if won else None),
    }


def _point(
    trial: Mapping[str, Any], is_winner: bool, budget: BudgetSpec, x: Axis, y: Axis, largest: float
) -> dict[str, Any]:
    """The circle of a trial and its words; `largest` is the size in MB of the largest circle."""
    metrics = trial["metrics"]
    shown = [name for name in FIGURES if name not in SOME or name in metrics]
    figures = ", ".join(f"{FIGURES[name]} {figure(metrics.get(name), name)}" for name in shown)
    radius = round(max(3.0, LARGEST * math.sqrt(metrics.get("megabytes", 0.0) / largest)), 1)
    place = x.at(metrics["p95_ms"])
    return {
        "kind": "winner" if is_winner else "inside" if fits(trial, budget) else "outside",
        "x": place,
        "y": min(y.at(metrics[METRIC]), BOTTOM - radius),
        "radius": radius,
        "anchor": _anchor(place),
        "words": f"trial {trial['id']}: {figures}",
    }


def _caption(missing: int, lower: int, largest: float, budget: BudgetSpec, best: str | None) -> str:
    parts = [f"A circle's area is the size of the bundle; the largest has {figure(largest, 'megabytes')} MB."]
    if budget.margin:
        errors = f"{budget.margin:g} standard error{'s' * (budget.margin != 1)}"
        parts.append(f"The least metric is to be held after {errors} of what is kept of the teacher's.")
    if budget.max_megabytes:
        parts.append(f"At most {figure(budget.max_megabytes, 'megabytes')} MB are allowed.")
    ringed = f", ringed: the winner, the {best} of them" if best else ""
    parts.append(f"Filled: inside the budget{ringed}. Empty: outside.")
    if lower:
        parts.append(f"Trials below the lower edge are drawn on it: {lower}.")
    if missing:
        parts.append(f"Trials without figures, not drawn: {missing}.")
    return " ".join(parts)


def _anchor(x: float) -> str:
    """The anchor of a label at `x` that keeps it inside the picture."""
    return "start" if x < LEFT + 70 else "end" if x > RIGHT - 70 else "middle"


class Axis:
    """Numbers from `low` to `high` along the picture from `start` to `end`."""

    def __init__(self, low: float, high: float, start: float, end: float, log: bool = False) -> None:
        self.low, self.high, self._start, self._end, self._log = low, high, start, end, log

    def at(self, value: float) -> float:
        """Place of a number in the picture."""
        scale = math.log if self._log else float
        share = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))
        return round(self._start + share * (self._end - self._start), 1)

    def ticks(self) -> list[float]:
        """About five round numbers; on a log axis 1, 2 and 5 times powers of ten."""
        if self._log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            return self._within(digit * 10.0**power for power in powers for digit in (1, 2, 5))
        rough = (self.high - self.low) / 5
        unit = 10.0 ** math.floor(math.log10(rough))
        step = unit * next(digit for digit in (1, 2, 5, 10) if digit * unit >= rough * 0.999)
        return self._within(round(step * index, 10) for index in range(math.ceil(self.low / step), 10**6))

    def _within(self, ticks: Iterable[float]) -> list[float]:
        inside = []
        for tick in ticks:
            if tick > self.high:
                break
            if tick >= self.low:
                inside.append(tick)
        return inside
