"""The comparison of contenders: as flat metrics, as Markdown tables, and in a sentence about the baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from configs.schema.search import BudgetSpec
from configs.schema.tasks import Task
from jobs.measure.answers import FIRST_SHARE
from jobs.measure.differences import LEAST_ROWS, Difference
from jobs.measure.measurement import BUDGET_SHAPE, CALLS, CHANGED, MIX, SECONDS_OF_A_SHAPE, TEXTS, key
from jobs.measure.timing import BLOCKS, LEAST_CALLS, PERCENTILES
from tuning.pareto import METRIC, broken, missed

BLOCKS_WORDS = (
    f"Batch {BUDGET_SHAPE[0]}, {BUDGET_SHAPE[1]} tokens: p50 and p95 are those of the quietest of {BLOCKS} blocks of "
    "calls, p99 is that of all; elsewhere all are those of all calls."
)
Figures = Mapping[str, Mapping[str, float]]  # by contender and metric


class Timed(NamedTuple):
    """What was timed, in words, and how the names of its figures begin."""

    title: str
    prefix: str


AS_THEY_COME = Timed("a row as it comes", f"{MIX}_")
MEAN = f"{MIX}_mean_ms"


class Machine(NamedTuple):
    """What the figures were taken on: its peaks by name (10^9 operations a second), how energy was taken."""

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


def ratios(
    answers: Figures, winner: str, teacher: str, shapes: Sequence[tuple[int, int]], task: Task
) -> dict[str, float]:
    """How the winner compares with the teacher: retention, times faster at each shape (p50) and by the mean row as it
    comes, times smaller.

    There is no retention of a metric that is 0.
    """
    ours, theirs = answers[winner], answers[teacher]
    found = {"retention": ours[task.metric] / theirs[task.metric]} if theirs[task.metric] else {}
    for name in (*(key(shape, "p50_ms") for shape in shapes), f"{MIX}_p50_ms"):
        if name in ours and name in theirs:
            found[f"speedup_{name.removesuffix('_p50_ms')}"] = theirs[name] / ours[name]
    if MEAN in ours and MEAN in theirs:
        found[f"speedup_{MEAN.removesuffix('_ms')}"] = theirs[MEAN] / ours[MEAN]
    if ours.get("bytes") and theirs.get("bytes"):
        found["times_smaller"] = theirs["bytes"] / ours["bytes"]
    return found


def flat(answers: Figures) -> dict[str, float]:
    """{contender_metric: value}; how often something was called is left to the files."""
    return {
        f"{name}_{each}": value
        for name, metrics in answers.items()
        for each, value in metrics.items()
        if not each.endswith("_calls")
    }


def budgeted(metrics: Mapping[str, float], whole: float, task: Task) -> dict[str, float]:
    """What a budget limits, of one contender's figures in the final evaluation; `whole` is the teacher's metric."""
    return {
        METRIC: metrics[task.metric],
        "retention": metrics[task.metric] / whole,
        "p95_ms": metrics[key(BUDGET_SHAPE, "p95_ms")],
        "megabytes": metrics["bytes"] / 1e6,
    }


def beaten(leads: Mapping[str, Mapping[str, Gap]], answers: Figures, metric: str) -> str | None:
    """A sentence about the best of the baselines that are better than the teacher or the winner; None without one.

    `leads`: by how much, by baseline and the contender that it is better than.
    """
    if not leads:
        return None
    best = max(leads, key=lambda name: answers[name][metric])
    others = [
        f"{gap.difference:+.4f} on the {other}'s {answers[other][metric]:.4f} (95 % interval over the same rows: "
        f"{gap.difference_low:+.4f} to {gap.difference_high:+.4f})"
        for other, gap in leads[best].items()
    ]
    words = f"The baseline {best} is better than the {' and the '.join(leads[best])}"
    return f"{words}: its {metric} is {answers[best][metric]:.4f}, {', '.join(others)}."


def verdict(
    answers: Figures, baselines: Sequence[str], winner: str, teacher: str, budget: BudgetSpec, task: Task
) -> Verdict | None:
    """Whether a baseline is inside the budget by its metric on this file, and faster than the winner (p50).

    None where there is nothing to compare: no baseline, or a teacher whose metric is 0.
    """
    whole, p50 = answers[teacher][task.metric], key(BUDGET_SHAPE, "p50_ms")
    if not baselines or not whole:
        return None
    held = {name: budgeted(answers[name], whole, task) for name in baselines}
    kept = {name: each["retention"] for name, each in held.items()}
    inside = [name for name in baselines if not broken(held[name], budget)]
    faster = [name for name in inside if answers[name][p50] < answers[winner][p50]]
    best = max(faster or inside or baselines, key=kept.__getitem__)
    share = f"{kept[best]:.1%} of the teacher's {task.metric}"
    if not inside:
        words = f"No baseline is inside the budget; the best, {best}, keeps {share}, and is outside with "
        return Verdict(f"{words}{missed(held[best], budget)}.", False)
    if not faster:
        words = f"The baseline {best} is inside the budget too, but no faster than the winner; it keeps {share}."
        return Verdict(words, False)
    times, ours = answers[winner][p50] / answers[best][p50], answers[winner][task.metric] / whole
    words = f"The baseline {best} is inside the budget and {times:.1f}x faster than the winner: "
    return Verdict(f"{words}it keeps {share}, the winner {ours:.1%}.", True)


def cascade(ours: Mapping[str, float], theirs: Mapping[str, float] | None) -> str | None:
    """What the first model of a cascade answers, and what a row as it comes takes; None of any other winner.

    The mean stands first: as soon as the first model answers over half of the rows, p50 is its time alone.
    """
    if FIRST_SHARE not in ours:
        return None
    names = (MEAN, f"{MIX}_p50_ms", f"{MIX}_p95_ms")
    words = f"The winner is a cascade: its first model answers {ours[FIRST_SHARE]:.1%} of the test rows. "
    if ours[FIRST_SHARE] == 1:
        words = "The winner is the first model of a cascade: it answers all test rows, and the second none. "
    taken = " / ".join(f"{ours[name]:.2f}" for name in names)
    words += f"A row as it comes, batch 1, takes mean / p50 / p95 {taken} ms"
    if theirs is None:
        return words + "."
    times = " / ".join(_times(theirs[name], ours[name]) for name in names)
    return f"{words}, {times} faster than the teacher's {' / '.join(f'{theirs[name]:.2f}' for name in names)} ms."


def markdown(answers: Figures, teacher: str | None, shapes: Sequence[tuple[int, int]], task: Task) -> str:
    """One row per contender; ratios are against the teacher, where there is one.

    Without `shapes` the latencies are those of rows as they come.
    """
    shown = [name for name in (task.metric, *task.shown) if any(name in each for each in answers.values())]
    heads = ["model", *(task.titles.get(name, name) for name in shown), "kept"]
    timed = [_shape(shape) for shape in shapes]
    if not timed and any(f"{AS_THEY_COME.prefix}p50_ms" in each for each in answers.values()):
        timed = [AS_THEY_COME]
    for title, _ in timed:
        heads += [f"p50 / p95 ms, {title}", "faster"]
    lines = _head([*heads, "MB", "smaller"])
    base = answers[teacher] if teacher else {}
    for name, metrics in answers.items():
        cells = [name, *(_with_interval(metrics, each) for each in shown)]
        cells.append(_share(metrics.get(task.metric), base.get(task.metric)))
        for _, prefix in timed:
            p50 = f"{prefix}p50_ms"
            cells += [_latency(metrics, prefix, PERCENTILES[:2]), _times(base.get(p50), metrics.get(p50))]
        size = metrics.get("bytes")
        cells += [f"{size / 1e6:.1f}" if size else "", _times(base.get("bytes"), size)]
        lines.append(_row(cells))
    return "\n".join(lines) + "\n"


def latencies_markdown(answers: Figures, shapes: Sequence[tuple[int, int]]) -> str:
    """One row for each shape, and one for the rows of the file as they are; one column for each contender."""
    lines = _head(["p50 / p95 / p99 ms", *answers])
    for title, prefix in [*(_shape(shape) for shape in shapes), AS_THEY_COME]:
        lines.append(_row([title, *(_latency(metrics, prefix, PERCENTILES) for metrics in answers.values())]))
        if any(others := [_others(metrics, prefix) for metrics in answers.values()]):
            lines.append(_row([f"p95 of the other blocks, {title}", *others]))
    if any(MEAN in metrics for metrics in answers.values()):
        means = (f"{metrics[MEAN]:.2f}" if MEAN in metrics else "" for metrics in answers.values())
        lines.append(_row([f"mean, {AS_THEY_COME.title}", *means]))
    calls, within = f"{LEAST_CALLS} to {CALLS}", f", by what fits in {SECONDS_OF_A_SHAPE:g} s"
    if not shapes:
        calls, within = f"{TEXTS}", ""
    note = f"Of {calls} calls{within}; a p99 of few is their slowest."
    return "\n".join([*lines, "", note]) + "\n"


def resources_markdown(answers: Figures, shapes: Sequence[tuple[int, int]], machine: Machine) -> str:
    """What each contender takes of the machine; shares of its peak at `shapes`."""
    columns = {
        "rows_per_second": ("rows a second, whole file", ",.0f"),
        "load_s": ("seconds to load", ".2f"),
        "peak_mb": ("peak memory, MB", ",.0f"),
        CHANGED: ("answers that change with the batch", ".2%"),
        "joules_per_1000": ("J per 1,000 requests", ".1f"),
    }
    for batch, tokens in shapes:
        for peak in machine.peaks:
            title = f"of the {peak.removesuffix('_peak')} peak, batch {batch}, {tokens} tokens"
            columns[key((batch, tokens), f"{peak}_share")] = (title, ".1%")
    lines = _head(["model", *(title for title, _ in columns.values())])
    for name, metrics in answers.items():
        cells = (format(metrics[each], how) if each in metrics else "" for each, (_, how) in columns.items())
        lines.append(_row([name, *cells]))
    return "\n".join([*lines, "", *notes(machine)]) + "\n"


def notes(machine: Machine) -> list[str]:
    """How the figures were taken, in sentences."""
    peaks = ", ".join(f"{name.removesuffix('_peak')} {best:,.0f}" for name, best in machine.peaks.items())
    taken = ["One thread, tokenizer included.", f"Energy of rows of the file, one request each: {machine.energy}."]
    if not machine.peaks:
        return taken
    return [
        *taken,
        f"Peaks of a core, its fastest large matrix product in this very run, in 10^9 operations a second: {peaks}.",
        "Share of a peak: 2 x the multiply-adds of the model's matrix products / p50 / peak.",
        BLOCKS_WORDS,
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


def _shape(shape: tuple[int, int]) -> Timed:
    return Timed(f"batch {shape[0]}, {shape[1]} tokens", key(shape, ""))


def _head(cells: Sequence[str]) -> list[str]:
    return [_row(cells), _row(["---"] * len(cells))]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _with_interval(metrics: Mapping[str, float], name: str) -> str:
    if name not in metrics:
        return ""
    low, high = (metrics.get(f"{name}_{end}") for end in ("low", "high"))
    return f"{metrics[name]:.4f}" + (f" ({low:.4f} to {high:.4f})" if low is not None else "")


def _latency(metrics: Mapping[str, float], prefix: str, percentiles: Sequence[int]) -> str:
    names = [f"{prefix}p{each}_ms" for each in percentiles]
    return " / ".join(f"{metrics[name]:.2f}" for name in names if name in metrics)


def _others(metrics: Mapping[str, float], prefix: str) -> str:
    low, high = (metrics.get(f"{prefix}p95_ms_others_{end}") for end in ("low", "high"))
    return "" if low is None else f"{low:.2f} to {high:.2f}"


def _share(part: float | None, whole: float | None) -> str:
    return f"{part / whole:.1%}" if part and whole else ""


def _times(theirs: float | None, ours: float | None) -> str:
    return f"{theirs / ours:.1f}x" if theirs and ours else ""
