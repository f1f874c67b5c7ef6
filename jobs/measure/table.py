"""The comparison of contenders: as flat metrics, as Markdown tables, and in a sentence about the baselines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from configs.schema.search import BudgetSpec
from configs.schema.tasks import Task
from jobs.measure.answers import FIRST_SHARE
from jobs.measure.differences import LEAST_ROWS, Difference
from jobs.measure.measurement import CHANGED, SECONDS_OF_A_SHAPE
from jobs.measure.timing import BLOCKS, LEAST_CALLS, PERCENTILES
from tuning.figures import AS_THEY_COME, MIX, Figures, Shape, at, figures, timed
from tuning.figures import flat as flat_names
from tuning.pareto import HELD, METRIC, PACE, SENT, broken, missed

PACES = {"ms_per_token": ("ms for each token", ".2f"), "tokens_per_second": ("tokens a second", ",.0f")}
Answers = Mapping[str, Figures]  # by contender


class Machine(NamedTuple):
    """What the figures were taken on: its peaks by kind (10^9 operations a second), how energy was taken."""

    peaks: Mapping[str, float]
    energy: str


class Verdict(NamedTuple):
    """What the baselines say about the winner; `beaten` where one of them would do in its place."""

    words: str
    beaten: bool


class Gap(NamedTuple):
    """A metric less another contender's, and the ends of its 95 % interval over the same rows."""

    difference: float
    difference_low: float
    difference_high: float


def blocks_words(shape: Shape) -> str:
    """How the latency at the budget's `shape` was taken."""
    title = timed(shape).title
    return (
        f"{title[:1].upper()}{title[1:]}: p50 and p95 are those of the quietest of {BLOCKS} blocks of calls, p99 is "
        "that of all; elsewhere all are those of all calls."
    )


def ratios(answers: Answers, winner: str, teacher: str, shapes: Sequence[Shape], task: Task) -> dict[str, float]:
    """How the winner compares with the teacher: retention, times faster at each shape (p50) and by the mean row as it
    comes, times smaller.

    There is no retention of a metric that is 0.
    """
    ours, theirs = answers[winner], answers[teacher]
    kept, whole = (each["metrics"][task.metric] for each in (ours, theirs))
    found = {"retention": kept / whole} if whole else {}
    for name, place, figure in (
        *((at(shape), at(shape), "p50_ms") for shape in shapes),
        (MIX, MIX, "p50_ms"),
        (f"{MIX}_mean", MIX, "mean_ms"),
    ):
        mine, other = (each["latency"].get(place, {}).get(figure) for each in (ours, theirs))
        if mine is not None and other is not None:
            found[f"speedup_{name}"] = other / mine
    mine, other = (each["metrics"].get("bytes") for each in (ours, theirs))
    if mine and other:
        found["times_smaller"] = other / mine
    return found


def flat(answers: Answers) -> dict[str, float]:
    """{contender_metric: value}; how often something was called is left to the files."""
    found: dict[str, float] = {}
    for name, each in answers.items():
        latency = {place: {**taken} for place, taken in each["latency"].items()}
        for taken in latency.values():
            taken.pop("calls", None)
        shown = flat_names({**each, "latency": latency})
        found |= {f"{name}_{metric}": value for metric, value in shown.items()}
    return found


def budgeted(found: Figures, whole: float, task: Task) -> dict[str, float]:
    """What a budget limits, of one contender's figures in the final evaluation; `whole` is the teacher's metric."""
    taken, metric = found["latency"][at(task.shape)], found["metrics"][task.metric]
    held = {METRIC: metric, "retention": metric / whole, "p95_ms": taken["p95_ms"]}
    held |= {name: taken[name] for name in (PACE,) if name in taken}
    if task.sent:  # what is not checked holds nothing back
        held |= {HELD: 0.0} | {name: found["metrics"][name] for name in SENT if name in found["metrics"]}
    return held | {"megabytes": found["metrics"]["bytes"] / 1e6}


def beaten(leads: Mapping[str, Mapping[str, Gap]], answers: Answers, metric: str) -> str | None:
    """A sentence about the best of the baselines that are better than the teacher or the winner; None without one.

    `leads`: by how much, by baseline and the contender that it is better than.
    """
    if not leads:
        return None
    values = {name: each["metrics"].get(metric, math.nan) for name, each in answers.items()}
    best = max(leads, key=values.__getitem__)
    others = [
        f"{gap.difference:+.4f} on the {other}'s {values[other]:.4f} (95 % interval over the same rows: "
        f"{gap.difference_low:+.4f} to {gap.difference_high:+.4f})"
        for other, gap in leads[best].items()
    ]
    words = f"The baseline {best} is better than the {' and the '.join(leads[best])}"
    return f"{words}: its {metric} is {values[best]:.4f}, {', '.join(others)}."


def verdict(
    answers: Answers, baselines: Sequence[str], winner: str, teacher: str, budget: BudgetSpec, task: Task
) -> Verdict | None:
    """Whether a baseline is inside the budget by its metric on this file, and faster than the winner (p50).

    None where there is nothing to compare: no baseline, or a teacher whose metric is 0.
    """
    whole = answers[teacher]["metrics"][task.metric]
    if not baselines or not whole:
        return None
    held = {name: budgeted(answers[name], whole, task) for name in baselines}
    p50 = {name: answers[name]["latency"][at(task.shape)]["p50_ms"] for name in (*baselines, winner)}
    kept = {name: each["retention"] for name, each in held.items()}
    inside = [name for name in baselines if not broken(held[name], budget)]
    faster = [name for name in inside if p50[name] < p50[winner]]
    best = max(faster or inside or baselines, key=kept.__getitem__)
    share = f"{kept[best]:.1%} of the teacher's {task.metric}"
    if not inside:
        words = f"No baseline is inside the budget; the best, {best}, keeps {share}, and is outside with "
        return Verdict(f"{words}{missed(held[best], budget)}.", False)
    if not faster:
        words = f"The baseline {best} is inside the budget too, but no faster than the winner; it keeps {share}."
        return Verdict(words, False)
    times, ours = p50[winner] / p50[best], answers[winner]["metrics"][task.metric] / whole
    words = f"The baseline {best} is inside the budget and {times:.1f}x faster than the winner: "
    return Verdict(f"{words}it keeps {share}, the winner {ours:.1%}.", True)


def cascade(ours: Figures, theirs: Figures | None) -> str | None:
    """What the first model of a cascade answers, and what a row as it comes takes; None of any other winner.

    The mean stands first: as soon as the first model answers over half of the rows, p50 is its time alone.
    """
    share = ours["metrics"].get(FIRST_SHARE)
    if share is None:
        return None
    names = ("mean_ms", "p50_ms", "p95_ms")
    words = f"The winner is a cascade: its first model answers {share:.1%} of the test rows. "
    if share == 1:
        words = "The winner is the first model of a cascade: it answers all test rows, and the second none. "
    mine = ours["latency"][MIX]
    taken = " / ".join(f"{mine[name]:.2f}" for name in names)
    words += f"A row as it comes, batch 1, takes mean / p50 / p95 {taken} ms"
    if theirs is None:
        return words + "."
    other = theirs["latency"][MIX]
    times = " / ".join(_times(other[name], mine[name]) for name in names)
    return f"{words}, {times} faster than the teacher's {' / '.join(f'{other[name]:.2f}' for name in names)} ms."


def markdown(answers: Answers, teacher: str | None, shapes: Sequence[Shape], task: Task) -> str:
    """One row per contender; ratios are against the teacher, where there is one.

    Without `shapes` the latencies are those of rows as they come.
    """
    shown = [name for name in (task.metric, *task.shown) if any(name in each["metrics"] for each in answers.values())]
    heads = ["model", *(task.titles.get(name, name) for name in shown), "kept"]
    places = [timed(shape) for shape in shapes]
    if not places and any(MIX in each["latency"] for each in answers.values()):
        places = [AS_THEY_COME]
    for place in places:
        heads += [f"p50 / p95 ms, {place.title}", "faster"]
    lines = _head([*heads, "MB", "smaller"])
    base = answers[teacher] if teacher else figures()
    for name, found in answers.items():
        metrics, theirs = found["metrics"], base["metrics"]
        cells = [name, *(_with_interval(metrics, each) for each in shown)]
        cells.append(_share(metrics.get(task.metric), theirs.get(task.metric)))
        for place in places:
            taken, before = (each["latency"].get(place.at, {}) for each in (found, base))
            cells += [_latency(taken, PERCENTILES[:2]), _times(before.get("p50_ms"), taken.get("p50_ms"))]
        size = metrics.get("bytes")
        cells += [f"{size / 1e6:.1f}" if size else "", _times(theirs.get("bytes"), size)]
        lines.append(_row(cells))
    return "\n".join(lines) + "\n"


def latencies_markdown(answers: Answers, shapes: Sequence[Shape], task: Task) -> str:
    """One row for each shape, and one for the rows of the file as they are; one column for each contender."""
    lines = _head(["p50 / p95 / p99 ms", *answers])
    for place in [*(timed(shape) for shape in shapes), AS_THEY_COME]:
        taken = [each["latency"].get(place.at, {}) for each in answers.values()]
        lines.append(_row([place.title, *(_latency(each, PERCENTILES) for each in taken)]))
        for figure, (title, form) in PACES.items():
            if any(figure in each for each in taken):
                paces = (format(each[figure], form) if figure in each else "" for each in taken)
                lines.append(_row([f"{title}, {place.title}", *paces]))
        if any(others := [_others(each) for each in taken]):
            lines.append(_row([f"p95 of the other blocks, {place.title}", *others]))
    single = [each["latency"].get(MIX, {}) for each in answers.values()]
    if any("mean_ms" in each for each in single):
        means = (f"{each['mean_ms']:.2f}" if "mean_ms" in each else "" for each in single)
        lines.append(_row([f"mean, {AS_THEY_COME.title}", *means]))
    note = f"Of {LEAST_CALLS} to {task.calls} calls, by what fits in {SECONDS_OF_A_SHAPE:g} s"
    note += "; a p99 of few is their slowest."
    return "\n".join([*lines, "", note]) + "\n"


def resources_markdown(answers: Answers, shapes: Sequence[Shape], machine: Machine, task: Task) -> str:
    """What each contender takes of the machine; shares of its peak at `shapes`."""
    columns = {
        "rows_per_second": ("rows a second, whole file", ",.0f"),
        "load_s": ("seconds to load", ".2f"),
        "peak_mb": ("peak memory, MB", ",.0f"),
        CHANGED: ("answers that change with the batch", ".2%"),
        "joules_per_1000": ("J per 1,000 requests", ".1f"),
    }
    shares = [(timed(shape), kind) for shape in shapes for kind in machine.peaks]
    titles = [title for title, _ in columns.values()]
    lines = _head(["model", *titles, *(f"of the {kind} peak, {place.title}" for place, kind in shares)])
    for name, found in answers.items():
        metrics = found["metrics"]
        cells = [format(metrics[each], how) if each in metrics else "" for each, (_, how) in columns.items()]
        reached = (found["shares"].get(place.at, {}).get(kind) for place, kind in shares)
        lines.append(_row([name, *cells, *("" if each is None else f"{each:.1%}" for each in reached)]))
    return "\n".join([*lines, "", *notes(machine, task)]) + "\n"


def notes(machine: Machine, task: Task) -> list[str]:
    """How the figures were taken, in sentences."""
    peaks = ", ".join(f"{kind} {best:,.0f}" for kind, best in machine.peaks.items())
    taken = ["One thread, tokenizer included.", f"Energy of rows of the file, one request each: {machine.energy}."]
    if not machine.peaks:
        return [*taken, blocks_words(task.shape)]
    return [
        *taken,
        f"Peaks of a core, its fastest large matrix product in this very run, in 10^9 operations a second: {peaks}.",
        "Share of a peak: 2 x the multiply-adds of the model's matrix products / p50 / peak.",
        blocks_words(task.shape),
    ]


def difference_words(found: Gap, metric: str) -> str:
    """A sentence about the winner's metric less its teacher's."""
    words = f"The winner's {metric} less the teacher's is {found.difference:+.4f}"
    ends = f"{found.difference_low:+.4f} to {found.difference_high:+.4f}"
    return f"{words} (95 % interval over the same rows: {ends}).\n"


def differences_markdown(worst: Sequence[Difference]) -> str:
    """Where the winner is furthest behind its teacher: one row for each class or slice, in the order given."""
    if not worst:
        return f"In no class or slice of at least {LEAST_ROWS} rows is the winner behind its teacher.\n"
    lines = _head(["the winner is behind its teacher in", "rows", "teacher", "winner", "difference, points"])
    for each in worst:
        value = " ".join(each.value.replace("|", "\\|").split())
        shares = (f"{each.teacher:.1%}", f"{each.winner:.1%}", f"{100 * (each.difference or 0):+.1f}")
        lines.append(_row([f"{each.slice}: {value}", str(each.rows), *shares]))
    return "\n".join(lines) + "\n"


def _head(cells: Sequence[str]) -> list[str]:
    return [_row(cells), _row(["---"] * len(cells))]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _with_interval(metrics: Mapping[str, float], name: str) -> str:
    if name not in metrics:
        return ""
    low, high = (metrics.get(f"{name}_{end}") for end in ("low", "high"))
    return f"{metrics[name]:.4f}" + (f" ({low:.4f} to {high:.4f})" if low is not None else "")


def _latency(taken: Mapping[str, float], percentiles: Sequence[int]) -> str:
    names = [f"p{each}_ms" for each in percentiles]
    return " / ".join(f"{taken[name]:.2f}" for name in names if name in taken)


def _others(taken: Mapping[str, float]) -> str:
    low, high = (taken.get(f"p95_ms_others_{end}") for end in ("low", "high"))
    return "" if low is None else f"{low:.2f} to {high:.2f}"


def _share(part: float | None, whole: float | None) -> str:
    return f"{part / whole:.1%}" if part and whole else ""


def _times(theirs: float | None, ours: float | None) -> str:
    return f"{theirs / ours:.1f}x" if theirs and ours else ""
