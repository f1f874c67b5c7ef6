"""report.html: what won, why, and what it was up against, on one page without scripts and without the network."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.folder import write_synced
from tuning.pareto import LIMITS, METRIC, broken, score
from tuning.spec import BudgetSpec

FIGURES = {METRIC: "metric", "retention": "retention", "p95_ms": "p95, ms", "megabytes": "MB"}
WIDTH, HEIGHT = 680, 440
LEFT, RIGHT, TOP, BOTTOM = 72, 664, 44, 378  # edges of the plot inside the picture
LARGEST = 16.0  # radius of the largest circle
LOG_FROM = 8  # largest over smallest latency from which the axis is logarithmic
SHOWN_BELOW = 0.03  # share of the best metric that is shown below the least one allowed; collapsed trials lie lower

Metrics = Mapping[str, float]


def write(
    path: Path,
    name: str,
    found: Mapping[str, Any],
    budget: BudgetSpec,
    evaluation: Mapping[str, Metrics] | None = None,
) -> None:
    """Write the page of a search, whole or not at all.

    `found` is the manifest of <output>/search; `evaluation`, {contender: metrics}, adds the comparison on the test file.
    """
    write_synced(path, render(name, found, budget, evaluation))


def render(
    name: str, found: Mapping[str, Any], budget: BudgetSpec, evaluation: Mapping[str, Metrics] | None = None
) -> str:
    """The page as HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": figure, "shown": shown, "sentence": sentence, "breakable": breakable}
    trials = sorted(found["trials"], key=lambda trial: _rank(trial, budget), reverse=True)
    won = found["winner"]["id"] if found["winner"] else None
    winner = next((trial for trial in trials if trial["id"] == won), None)
    return environment.get_template("report.html.jinja").render(
        name=name,
        counts=_counts(trials, budget),
        winner=winner,
        nearest=next((trial for trial in trials if trial["error"] is None), None),
        limits=_limits(winner["metrics"], budget) if winner else [],
        budget_words=", ".join(f"{field}={getattr(budget, field):g}" for field, _ in _set_limits(budget)),
        evaluation=_comparison(evaluation) if evaluation else None,
        chart=_chart(trials, won, budget, found["teacher_metric"]),
        metric=METRIC,
        heads=list(FIGURES.items()),
        keys=list(dict.fromkeys(key for trial in trials for key in trial["values"])),
        trials=trials,
        origin=[
            (title, found[field])
            for title, field in (
                ("MLflow run", "run_id"),
                ("model", "model_uri"),
                ("bundle, SHA-256", "bundle"),
                ("inputs, SHA-256", "key"),
            )
            if found.get(field)
        ],
    )


def figure(value: float | None, name: str) -> str:
    """A measured figure with the digits that mean something; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    if name == "retention":
        return f"{value:.2%}"
    return f"{value:.4f}" if name == METRIC else f"{value:.1f}" if name == "megabytes" and value >= 10 else f"{value:.2f}"


def shown(value: object) -> str:
    """A searched value as a reader writes it."""
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def breakable(key: str) -> str:
    """A dotted key that may go on in the next line after a dot."""
    return key.replace(".", ".\u200b")


def sentence(text: str) -> str:
    """With a capital first and a full stop."""
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _rank(trial: Mapping[str, Any], budget: BudgetSpec) -> tuple[bool, float, float]:
    metrics = trial["metrics"]
    if trial["error"] is not None or METRIC not in metrics:
        return False, -math.inf, -math.inf
    return True, score(metrics, budget), -metrics.get("p95_ms", math.inf)


def _fits(trial: Mapping[str, Any], budget: BudgetSpec) -> bool:
    return trial["error"] is None and not broken(trial["metrics"], budget)


def _counts(trials: Sequence[Mapping[str, Any]], budget: BudgetSpec) -> str:
    failed = sum(trial["error"] is not None for trial in trials)
    inside = sum(_fits(trial, budget) for trial in trials)
    parts = [f"{inside} inside the budget", f"{len(trials) - inside - failed} outside"]
    return f"{len(trials)} trial{'s' * (len(trials) != 1)}: {', '.join(parts)}{f', {failed} failed' if failed else ''}."


def _set_limits(budget: BudgetSpec) -> list[tuple[str, str]]:
    """(field, metric) of the limits that are set."""
    return [(field, name) for field, name, _ in LIMITS if getattr(budget, field) is not None]


def _limits(metrics: Metrics, budget: BudgetSpec) -> list[dict[str, Any]]:
    """The winner's figures, each with its limit and how far from it."""
    missed, found = broken(metrics, budget), [_tile(METRIC, metrics, "what was maximised")]
    for field, name, sign in LIMITS:
        limit = getattr(budget, field)
        words = "no limit"
        if limit is not None:
            room = "not held" if field in missed else f"{abs(metrics[name] - limit) / limit:.1%} to spare" if limit else "held"
            words = f"at {'most' if sign > 0 else 'least'} {figure(limit, name)}, {room}"
        found.append(_tile(name, metrics, words) | {"holds": field not in missed})
    return found


def _tile(name: str, metrics: Metrics, words: str) -> dict[str, Any]:
    title = {"retention": "kept of the teacher's", "p95_ms": "p95 latency", "megabytes": "size"}.get(name, FIGURES[name])
    unit = {"p95_ms": " ms", "megabytes": " MB"}.get(name, "")
    return {"title": title, "value": figure(metrics.get(name), name) + unit, "words": words, "holds": True}


def _comparison(answers: Mapping[str, Metrics]) -> dict[str, Any]:
    """The final evaluation: one row for each figure, one cell for each contender, compared with the teacher."""
    teacher = answers.get("teacher")
    latencies = {  # p50: p95, title
        key: (f"{shape[1]}_p95_ms", f"p50 / p95 ms, batch {shape[2]}, {shape[3]} tokens")
        for metrics in answers.values()
        for key in metrics
        if (shape := re.fullmatch(r"(batch(\d+)_tokens(\d+))_p50_ms", key))
    }

    def row(title: str, key: str, form: str, compare: str = "", scale: float = 1.0, second: str = "") -> dict[str, Any]:
        cells = []
        for metrics in answers.values():
            text = " / ".join(format(metrics[each] * scale, form) for each in (key, second) if each in metrics)
            value, theirs = metrics.get(key), (teacher or {}).get(key)
            compared = value and theirs and compare and metrics is not teacher
            cells.append((text or "–", _compared(compare, value, theirs) if compared else ""))
        return {"title": title, "cells": cells}

    rows = [
        row("accuracy", "accuracy", ".4f", "kept"),
        row("macro-F1", "macro_f1", ".4f", "kept"),
        *(row(title, p50, ".2f", "faster", second=p95) for p50, (p95, title) in latencies.items()),
        row("rows per second, whole file", "rows_per_second", ",.0f"),
        row("size, MB", "bytes", ".1f", "smaller", scale=1e-6),
        row("peak memory, MB", "peak_mb", ",.0f"),
    ]
    measured = [each for each in rows if any(text != "–" for text, _ in each["cells"])]
    return {"names": [each.replace("_", " ") for each in answers], "rows": measured, "against_teacher": teacher is not None}


def _compared(how: str, ours: float, theirs: float) -> str:
    if how == "kept":
        return f"{ours / theirs:.1%} kept"
    better, worse = {"faster": ("faster", "slower"), "smaller": ("smaller", "larger")}[how]
    return f"{theirs / ours:.1f}x {better}" if theirs >= ours else f"{ours / theirs:.1f}x {worse}"


def _chart(
    trials: Sequence[Mapping[str, Any]], won: str | None, budget: BudgetSpec, teacher_metric: float
) -> dict[str, Any] | None:
    """Metric over p95 latency of every measured trial, as numbers of the picture; None where nothing was measured."""
    needed = (METRIC, "p95_ms")
    drawn = [each for each in trials if all(math.isfinite(each["metrics"].get(name, math.nan)) for name in needed)]
    if not drawn:
        return None
    least, most = budget.min_retention * teacher_metric, budget.max_p95_ms
    heights = [each["metrics"][METRIC] for each in drawn]
    latencies = [each["metrics"]["p95_ms"] for each in drawn]
    top = max(*heights, least)
    bottom = max(min(*heights, least), min(least, max(heights)) - SHOWN_BELOW * top)
    margin = (top - bottom or abs(top) or 1.0) * 0.12
    across = [*latencies, *([most] if most else [])]
    log = min(across) > 0 and max(across) / min(across) > LOG_FROM
    x = Axis(min(across) / 1.3 if log else 0.0, max(across) * (1.3 if log else 1.12) or 1.0, LEFT, RIGHT, log)
    y = Axis(bottom - margin, top + margin, BOTTOM, TOP)
    largest = max((each["metrics"].get("megabytes", 0.0) for each in drawn), default=0.0) or 1.0
    points = []
    for each in drawn:
        metrics = each["metrics"]
        figures = ", ".join(f"{title} {figure(metrics.get(name), name)}" for name, title in FIGURES.items())
        radius = round(max(3.0, LARGEST * math.sqrt(metrics.get("megabytes", 0.0) / largest)), 1)
        place = x.at(metrics["p95_ms"])
        points.append(
            {
                "kind": "winner" if each["id"] == won else "inside" if _fits(each, budget) else "outside",
                "x": place,
                "y": min(y.at(metrics[METRIC]), BOTTOM - radius),
                "radius": radius,
                "anchor": _anchor(place),
                "words": f"trial {each['id']}: {figures}",
            }
        )
    points.sort(key=lambda point: (point["kind"] == "winner", -point["radius"]))  # small ones lie above large ones
    limit_x, limit_y = x.at(most) if most else None, y.at(least)
    lower = sum(height < y.low for height in heights)
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": RIGHT,
        "top": TOP,
        "bottom": BOTTOM,
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
        "caption": _caption(len(trials) - len(drawn), lower, largest, budget, won is not None),
    }


def _caption(missing: int, lower: int, largest: float, budget: BudgetSpec, has_winner: bool) -> str:
    parts = [f"A circle's area is the size of the bundle; the largest has {figure(largest, 'megabytes')} MB."]
    if budget.max_megabytes:
        parts.append(f"At most {figure(budget.max_megabytes, 'megabytes')} MB are allowed.")
    parts.append(f"Filled: inside the budget{', ringed: the winner' if has_winner else ''}. Empty: outside.")
    if lower:
        parts.append(f"Trials below the lower edge are drawn on it: {lower}.")
    if missing:
        parts.append(f"Trials without figures, not drawn: {missing}.")
    return " ".join(parts)


def _anchor(x: float) -> str:
    """How a label stands at `x` so that it stays in the picture."""
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
        found = []
        for tick in ticks:
            if tick > self.high:
                break
            if tick >= self.low:
                found.append(tick)
        return found
