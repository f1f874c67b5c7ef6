"""The comparison of contenders as flat metrics and as a Markdown table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jobs.measure.fresh import key
from jobs.tasks.table import Task

HEADS = {"macro_f1": "macro-F1", "bleu": "BLEU", "rouge_l": "ROUGE-L", "slot_error_rate": "slot error rate"}
Answer = Mapping[str, Mapping[str, float]]


def ratios(
    answers: Answer, winner: str, teacher: str, shapes: Sequence[tuple[int, int]], task: Task
) -> dict[str, float]:
    """How the winner compares with the teacher: retention, times faster at each shape (p50), times smaller.

    There is no retention of a metric that is 0.
    """
    ours, theirs = answers[winner], answers[teacher]
    found = {"retention": ours[task.metric] / theirs[task.metric]} if theirs[task.metric] else {}
    for shape in shapes:
        name = key(shape, "p50_ms")
        found[f"speedup_{name.removesuffix('_p50_ms')}"] = theirs[name] / ours[name]
    if ours.get("bytes") and theirs.get("bytes"):
        found["times_smaller"] = theirs["bytes"] / ours["bytes"]
    return found


def flat(answers: Answer) -> dict[str, float]:
    """{contender_metric: value}, numbers only."""
    return {f"{name}_{each}": value for name, metrics in answers.items() for each, value in metrics.items()}


def markdown(answers: Answer, teacher: str | None, shapes: Sequence[tuple[int, int]], task: Task) -> str:
    """One row per contender; ratios are against the teacher, where there is one."""
    shown = [name for name in (task.metric, *task.shown) if any(name in each for each in answers.values())]
    heads = ["model", *(HEADS.get(name, name) for name in shown), "kept"]
    for batch, tokens in shapes:
        heads += [f"p50 / p95 ms, batch {batch}, {tokens} tokens", "faster"]
    lines = [_row([*heads, "MB", "smaller"]), _row(["---"] * (len(heads) + 2))]
    base = answers[teacher] if teacher else {}
    for name, metrics in answers.items():
        cells = [name, *(f"{metrics[each]:.4f}" for each in shown)]
        cells.append(_share(metrics.get(task.metric), base.get(task.metric)))
        for shape in shapes:
            p50, p95 = metrics[key(shape, "p50_ms")], metrics[key(shape, "p95_ms")]
            cells += [f"{p50:.2f} / {p95:.2f}", _times(base.get(key(shape, "p50_ms")), p50)]
        size = metrics.get("bytes")
        cells += [f"{size / 1e6:.1f}" if size else "", _times(base.get("bytes"), size)]
        lines.append(_row(cells))
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _share(part: float | None, whole: float | None) -> str:
    return f"{part / whole:.1%}" if part and whole else ""


def _times(theirs: float | None, ours: float | None) -> str:
    return f"{theirs / ours:.1f}x" if theirs and ours else ""
