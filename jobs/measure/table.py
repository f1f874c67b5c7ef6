"""The comparison of contenders: as flat metrics, as Markdown tables, and in a sentence about the baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jobs.measure.differences import LEAST_ROWS, Difference
from jobs.measure.fresh import BUDGET_SHAPE, MIX, SHARE, key
from jobs.tasks.table import Task
from tuning.pareto import METRIC, broken
from tuning.spec import BudgetSpec

HEADS = {
    "macro_f1": "macro-F1",
    "agreement": "as the teacher",
    "ece": "ECE",
    "bleu": "BLEU",
    "rouge_l": "ROUGE-L",
    "slot_error_rate": "slot error rate",
}
Figures = Mapping[str, Mapping[str, float]]  # by contender and metric


class Verdict(NamedTuple):
    """What the baselines say about the winner; `beaten` where one of them would do in its place."""

    words: str
    beaten: bool


def ratios(
    answers: Figures, winner: str, teacher: str, shapes: Sequence[tuple[int, int]], task: Task
) -> dict[str, float]:
    """How the winner compares with the teacher: retention, times faster at each shape (p50), times smaller.

    There is no retention of a metric that is 0.
    """
    ours, theirs = answers[winner], answers[teacher]
    found = {"retention": ours[task.metric] / theirs[task.metric]} if theirs[task.metric] else {}
    for name in (*(key(shape, "p50_ms") for shape in shapes), f"{MIX}_p50_ms"):
        if name in ours and name in theirs:
            found[f"speedup_{name.removesuffix('_p50_ms')}"] = theirs[name] / ours[name]
    if ours.get("bytes") and theirs.get("bytes"):
        found["times_smaller"] = theirs["bytes"] / ours["bytes"]
    return found


def flat(answers: Figures) -> dict[str, float]:
    """{contender_metric: value}, numbers only."""
    return {f"{name}_{each}": value for name, metrics in answers.items() for each, value in metrics.items()}


def verdict(
    answers: Figures, baselines: Sequence[str], winner: str, teacher: str, budget: BudgetSpec, task: Task
) -> Verdict | None:
    """Whether a baseline is inside the budget by its metric on this file, and faster than the winner (p50).

    None where there is nothing to compare: no baseline, or a teacher whose metric is 0.
    """
    whole, p50, p95 = answers[teacher][task.metric], key(BUDGET_SHAPE, "p50_ms"), key(BUDGET_SHAPE, "p95_ms")
    if not baselines or not whole:
        return None
    kept = {name: answers[name][task.metric] / whole for name in baselines}
    inside = []
    for name in baselines:
        metrics = {METRIC: answers[name][task.metric], "retention": kept[name], "p95_ms": answers[name][p95]}
        if not broken(metrics | {"megabytes": answers[name]["bytes"] / 1e6}, budget):
            inside.append(name)
    faster = [name for name in inside if answers[name][p50] < answers[winner][p50]]
    best = max(faster or inside or baselines, key=kept.__getitem__)
    share = f"{kept[best]:.1%} of the teacher's {task.metric}"
    if not inside:
        return Verdict(f"No baseline is inside the budget; the best, {best}, keeps {share}.", False)
    if not faster:
        words = f"The baseline {best} is inside the budget too, but no faster than the winner; it keeps {share}."
        return Verdict(words, False)
    times, ours = answers[winner][p50] / answers[best][p50], answers[winner][task.metric] / whole
    words = f"The baseline {best} is inside the budget and {times:.1f}x faster than the winner: "
    return Verdict(f"{words}it keeps {share}, the winner {ours:.1%}.", True)


def cascade(ours: Mapping[str, float], theirs: Mapping[str, float] | None) -> str | None:
    """What the first model of a cascade answers, and what a row as it comes takes; None of any other winner."""
    if SHARE not in ours:
        return None
    p50, p95 = f"{MIX}_p50_ms", f"{MIX}_p95_ms"
    words = f"The winner is a cascade: its first model answers {ours[SHARE]:.1%} of the test rows. "
    words += f"A row as it comes, batch 1, takes p50 / p95 {ours[p50]:.2f} / {ours[p95]:.2f} ms"
    if theirs is None:
        return words + "."
    times = f"{_times(theirs[p50], ours[p50])} / {_times(theirs[p95], ours[p95])}"
    return f"{words}, {times} faster than the teacher's {theirs[p50]:.2f} / {theirs[p95]:.2f} ms."


def markdown(answers: Figures, teacher: str | None, shapes: Sequence[tuple[int, int]], task: Task) -> str:
    """One row per contender; ratios are against the teacher, where there is one."""
    shown = [name for name in (task.metric, *task.shown) if any(name in each for each in answers.values())]
    heads = ["model", *(HEADS.get(name, name) for name in shown), "kept"]
    for batch, tokens in shapes:
        heads += [f"p50 / p95 ms, batch {batch}, {tokens} tokens", "faster"]
    lines = _head([*heads, "MB", "smaller"])
    base = answers[teacher] if teacher else {}
    for name, metrics in answers.items():
        cells = [name, *(f"{metrics[each]:.4f}" if each in metrics else "" for each in shown)]
        cells.append(_share(metrics.get(task.metric), base.get(task.metric)))
        for shape in shapes:
            p50, p95 = metrics[key(shape, "p50_ms")], metrics[key(shape, "p95_ms")]
            cells += [f"{p50:.2f} / {p95:.2f}", _times(base.get(key(shape, "p50_ms")), p50)]
        size = metrics.get("bytes")
        cells += [f"{size / 1e6:.1f}" if size else "", _times(base.get("bytes"), size)]
        lines.append(_row(cells))
    return "\n".join(lines) + "\n"


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


def _share(part: float | None, whole: float | None) -> str:
    return f"{part / whole:.1%}" if part and whole else ""


def _times(theirs: float | None, ours: float | None) -> str:
    return f"{theirs / ours:.1f}x" if theirs and ours else ""
