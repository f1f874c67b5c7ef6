"""report.html: what won, why, and what it was up against, on one page without scripts and without the network."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from configs.schema.search import BudgetSpec, Objective
from configs.schema.tasks import BUDGET_SHAPE, TASKS, Task
from tuning.chart import DASH, FIGURES, SOME, draw, figure, fits
from tuning.comparison import svg, templates
from tuning.figures import AS_THEY_COME, Figures, Shape, Timed, at, timed
from tuning.pareto import (
    BUSY,
    IN_SEARCH,
    LIMITS,
    METRIC,
    PACE,
    RETENTION,
    SIGNS,
    broken,
    formula,
    held,
    score,
    superlative,
    weights_of,
    worth,
)

UNITS = {"p95_ms": " ms", PACE: " ms", "megabytes": " MB"}
SPLITS = {"train": "training"}  # as readers call them
OF_ROWS = (  # key, head and form of what is said of the rows of a split
    ("rows", "rows", ",d"),
    ("unknown_share", "unknown tokens", ".1%"),
    ("cut_share", "cut texts", ".1%"),
    ("repeated", "rows with the text of an earlier one", ",d"),
    ("contradicting", "rows whose text has two labels", ",d"),
)
ORIGIN = (  # title and field of what tells where the winner comes from
    ("MLflow run", "run_id"),
    ("MLflow runs of trials", "earlier"),
    ("model", "model_uri"),
    ("bundle, SHA-256", "bundle"),
    ("inputs, SHA-256", "key"),
)
FIRST = ("winner", "teacher", "student")  # of the final evaluation; the others follow

Metrics = Mapping[str, float]


def render(
    name: str,
    found: Mapping[str, Any],
    budget: BudgetSpec,
    objective: Objective,
    evaluation: Mapping[str, Any] | None = None,
    rows: Mapping[str, Any] | None = None,
    served: Metrics | None = None,
) -> str:
    """The page of a search as HTML.

    `found` is the manifest of <output>/search; `evaluation`, that of <output>/evaluation, adds what the test file said;
    `rows` says what is wrong with the rows that were learned from: figures of each of its `splits`, and `words`;
    `served` is what a client of the deployed winner saw: `served_p50_ms` and `served_p95_ms`.
    """
    environment = templates()
    environment.filters |= {"figure": figure, "shown": shown, "sentence": sentence, "breakable": breakable}
    environment.filters |= {"share": "{:.1%}".format, "points": lambda share: f"{100 * share:+.1f}"}
    won, label = found["winner"]["id"] if found["winner"] else None, found.get("metric", METRIC)
    trials = sorted(found["trials"], key=lambda trial: _rank(trial, won, budget, objective), reverse=True)
    winner = next((trial for trial in trials if trial["id"] == won), None)
    others = dict.fromkeys(each["by"] for each in trials if each.get("by") not in (None, "", found.get("run_id")))
    told = {**found, "earlier": ", ".join(others)}
    unseen = (evaluation or {}).get("budgeted", {}).get("winner")  # taken beside teacher and baselines, by one rule
    return environment.get_template("report.html.jinja").render(
        name=name,
        counts=_counts(trials, budget),
        known=found.get("known"),
        winner=winner,
        nearest=next((trial for trial in trials if trial["error"] is None), None),
        limits=_tiles(unseen or winner["metrics"], budget, objective, label, unseen is not None) if winner else [],
        unseen=unseen is not None,
        client=_client(served, (evaluation or {}).get("metrics", {}), winner["metrics"]) if served and winner else None,
        budget_words=", ".join(f"{field}={getattr(budget, field):g}" for field, _ in _set_limits(budget)),
        evaluation=_comparison(evaluation) if evaluation else None,
        data=_data(rows, (evaluation or {}).get("rows")),
        chart=draw(trials, won, budget, found["teacher_metric"], superlative(objective)),
        metric=label,
        heads=[(name, label if name == METRIC else FIGURES[name]) for name in _shown_figures(trials)],
        keys=list(dict.fromkeys(key for trial in trials for key in trial["values"])),
        trials=trials,
        origin=[(title, told[field]) for title, field in ORIGIN if told.get(field)],
    )


def _shown_figures(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    """Columns of the table of trials: figures of what writes, or is checked, where there is such a trial."""
    return [name for name in FIGURES if name not in SOME or any(name in trial["metrics"] for trial in trials)]


def _client(served: Metrics, evaluated: Metrics, searched: Metrics) -> str:
    """What a client sees beside what the model takes, which the evaluation says better than the search."""
    alone = evaluated.get(f"winner_{at(BUDGET_SHAPE)}_p50_ms", searched.get("p50_ms"))
    beside = f"; the model alone takes {alone:.2f} ms (p50)" if alone is not None else ""
    if PACE in searched:  # in service a text ends where the model ends it, so that the times are of different texts
        beside = ""
    return (
        f"A client of the service gets an answer in {served['served_p50_ms']:.2f} ms (p50) and "
        f"{served['served_p95_ms']:.2f} ms (p95), inputs of {BUDGET_SHAPE[1]} tokens each over HTTP, when it was "
        f"deployed{beside}"
    )


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


def _data(*records: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Figures of the rows, a line for each split, and what there is to say of them; None where nothing is known."""
    known = [each for each in records if each]
    splits = {name: figures for each in known for name, figures in each["splits"].items()}
    lines = []
    for name, figures in splits.items():
        cells = [format(figures[key], form) if key in figures else DASH for key, _, form in OF_ROWS]
        lines.append({"title": SPLITS.get(name, name), "cells": cells})
    words = [words for each in known for words in each["words"]]
    return {"heads": [head for _, head, _ in OF_ROWS], "rows": lines, "words": words} if lines else None


def _rank(
    trial: Mapping[str, Any], won: str | None, budget: BudgetSpec, objective: Objective
) -> tuple[bool, bool, float, float]:
    """The winner first: others may be worth as much, up to the noise of a measurement."""
    metrics = trial["metrics"]
    if trial["error"] is not None or METRIC not in metrics:
        return False, False, -math.inf, -math.inf
    return trial["id"] == won, True, score(metrics, budget, objective), -metrics.get("p95_ms", math.inf)


def _counts(trials: Sequence[Mapping[str, Any]], budget: BudgetSpec) -> str:
    failed = sum(trial["error"] is not None for trial in trials)
    inside = sum(fits(trial, budget) for trial in trials)
    parts = [f"{inside} inside the budget", f"{len(trials) - inside - failed} outside"]
    if failed:
        parts.append(f"{failed} failed")
    words = f"{len(trials)} trial{'s' * (len(trials) != 1)}: {', '.join(parts)}."
    busy = [share for trial in trials if (share := trial["metrics"].get("busy", 0.0)) > BUSY]
    if busy:
        words += f" {len(busy)} timed on a busy machine: kept from the CPU for up to {max(busy):.0%} of the time."
    if again := sum(f"p95_ms{IN_SEARCH}" in trial["metrics"] for trial in trials):
        words += f" {again} timed again after the search, in turns; the choice is by that."
    return words


def _set_limits(budget: BudgetSpec) -> list[tuple[str, str]]:
    """(field, metric) of the limits that are set."""
    return [(field, name) for field, name, _ in LIMITS if getattr(budget, field) is not None]


def _tiles(
    metrics: Metrics, budget: BudgetSpec, objective: Objective, label: str, unseen: bool
) -> list[dict[str, Any]]:
    """What the winner is best by, then its figures, each with its limit and how far from it.

    They are of `unseen` rows, or of those that it was chosen by.
    """
    weights = weights_of(objective)
    counted = [name for name, weight in weights.model_dump().items() if weight]
    words = {each: f"what was {'maximised' if SIGNS[each] > 0 else 'minimised'}" for each in counted}
    tiles = []
    if len(counted) > 1:
        mixed = METRIC in counted
        value = math.exp(worth(metrics, weights) * (1 if mixed else -1))
        told = f"what was {'maximised' if mixed else 'minimised'}"
        tiles, words = [{"title": formula(weights), "value": f"{value:.3g}", "words": told, "holds": True}], {}
    of_rows = "on unseen rows" if unseen else words.get(METRIC, "on the validation rows")
    tiles.append(_tile(METRIC, metrics, of_rows) | {"title": label})
    missed = broken(metrics, budget)
    for field, name, sign in LIMITS:
        limit = getattr(budget, field)
        if limit is None and name in SOME and name not in metrics:
            continue
        told = "no limit"
        if limit is not None:
            room = "held" if field not in missed else "not held"
            if field not in missed and limit:
                room = f"{abs(held(metrics, name, budget) - limit) / limit:.1%} to spare"
            if name == RETENTION and (less := metrics[name] - held(metrics, name, budget)):
                errors = f"{budget.margin:g} standard error{'s' * (budget.margin != 1)}"
                room += f" after {errors} ({figure(less, name)})"
            told = f"at {'most' if sign > 0 else 'least'} {figure(limit, name)}{UNITS.get(name, '')}, {room}"
        told = "; ".join(filter(None, [words.get(name), told]))
        tiles.append(_tile(name, metrics, told) | {"holds": field not in missed})
    return tiles


def _tile(name: str, metrics: Metrics, words: str) -> dict[str, Any]:
    title = {"p95_ms": "p95 latency", PACE: "time by token", "megabytes": "size"}.get(name, FIGURES[name])
    value = figure(metrics.get(name), name) + UNITS.get(name, "")
    return {"title": title, "value": value, "words": words, "holds": True}


def _comparison(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The final evaluation: one row for each figure, one cell for each contender, compared with the teacher."""
    order, task = [*FIRST, *evaluation["answers"]], TASKS[evaluation["task"]]
    answers: dict[str, Figures] = dict(sorted(evaluation["answers"].items(), key=lambda each: order.index(each[0])))
    metric = evaluation.get("metric", task.metric)
    lines = _lines(task, answers, [tuple(shape) for shape in evaluation["shapes"]])
    rows = [{"title": each.title, "cells": _cells(each, answers)} for each in lines]
    return {
        "names": [each.replace("_", " ") for each in answers],
        "rows": [each for each in rows if any(text != DASH for text, _ in each["cells"])],
        "against_teacher": "teacher" in answers,
        "first": evaluation["first"],
        "behind": evaluation.get("behind"),
        "examples": evaluation.get("examples", []),
        "metric": task.titles.get(metric, metric),
        "chart": svg(answers, metric, timed(task.shape), alone=False, title=task.titles.get(metric, "")),
        "notes": evaluation.get("notes", []),
    }


class _Line(NamedTuple):
    """A figure of every contender: where it is found, and how it is written."""

    title: str
    key: str
    form: str
    compare: str = ""  # how it is held against the teacher's, see `_compared`
    scale: float = 1.0
    further: Sequence[str] = ()  # further figures in the same cell
    part: Callable[[Figures], Metrics] = operator.itemgetter("metrics")


def _lines(task: Task, answers: Mapping[str, Figures], shapes: Sequence[Shape]) -> list[_Line]:
    """Every figure that the table may show; one that no contender has is left out there."""

    def latency(place: Timed) -> Callable[[Figures], Metrics]:
        return lambda each: each["latency"].get(place.at, {})

    def share(place: Timed) -> Callable[[Figures], Metrics]:
        return lambda each: each["shares"].get(place.at, {})

    def percentiles(place: Timed) -> _Line:
        words = f"p50 / p95 / p99 ms, {place.title}"
        return _Line(words, "p50_ms", ".2f", "faster", further=("p95_ms", "p99_ms"), part=latency(place))

    of_budget, written = timed(task.shape), [shape for shape in shapes if shape[len(BUDGET_SHAPE) :] > (1,)]
    low, high = "p95_ms_others_low", "p95_ms_others_high"
    others = f"p95 of the other blocks, ms, {of_budget.title}"
    kinds = dict.fromkeys(kind for each in answers.values() for found in each["shares"].values() for kind in found)
    shares = [(timed(shape), kind) for shape in shapes if shape[1:] == task.shape[1:] for kind in kinds]
    return [
        *(_Line(each.title, each.metric, each.form, each.compare, further=each.further) for each in task.lines),
        _Line("answers that change with the batch", "batch_changed", ".2%"),
        *map(percentiles, [*map(timed, shapes), AS_THEY_COME]),
        _Line(others, low, ".2f", further=(high,), part=latency(of_budget)),
        _Line(f"ms for each token, {of_budget.title}", PACE, ".2f", "faster", part=latency(of_budget)),
        *(
            _Line(f"tokens a second, {place.title}", "tokens_per_second", ",.0f", part=latency(place))
            for place in map(timed, written)
        ),
        _Line(f"mean ms, {AS_THEY_COME.title}", "mean_ms", ".2f", "faster", part=latency(AS_THEY_COME)),
        _Line("answered by the first model of a cascade", "first_share", ".1%"),
        _Line("rows per second, whole file", "rows_per_second", ",.0f"),
        _Line("size, MB", "bytes", ".1f", "smaller", scale=1e-6),
        _Line("seconds to load", "load_s", ".2f"),
        _Line("peak memory, MB", "peak_mb", ",.0f"),
        _Line("joules per 1,000 requests", "joules_per_1000", ".1f"),
        *(_Line(f"share of the {kind} peak, {of.title}", kind, ".1%", part=share(of)) for of, kind in shares),
    ]


def _cells(line: _Line, answers: Mapping[str, Figures]) -> list[tuple[str, str]]:
    """(the figure, how it compares with the teacher's) of each contender."""
    theirs = line.part(answers["teacher"]).get(line.key) if "teacher" in answers else None
    cells = []
    for name, each in answers.items():
        metrics = line.part(each)
        there = [metrics[key] * line.scale for key in (line.key, *line.further) if key in metrics]
        text = " / ".join(format(value, line.form) for value in there)
        against = "" if name == "teacher" else _compared(line.compare, metrics.get(line.key), theirs)
        cells.append((text or DASH, against))
    return cells


def _compared(how: str, ours: float | None, theirs: float | None) -> str:
    if not (how and ours and theirs):
        return ""
    if how == "kept":
        return f"{ours / theirs:.1%} kept"
    better, worse = {"faster": ("faster", "slower"), "smaller": ("smaller", "larger")}[how]
    return f"{theirs / ours:.1f}x {better}" if theirs >= ours else f"{ours / theirs:.1f}x {worse}"
