"""The final evaluation as its manifest and files: every contender's figures, and where the winner differs."""

from __future__ import annotations

import copy
import json
import logging
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from configs.schema.recipe import Recipe
from configs.schema.tasks import Task, named
from jobs.measure import table
from jobs.measure.bootstrap import interval
from jobs.measure.gate import Judgement, Tested
from jobs.measure.measurement import Measured
from jobs.measure.timing import busy_words
from serving import units
from tuning import comparison
from tuning.figures import AS_THEY_COME, BUDGET_SHAPE, Figures, flat, timed
from tuning.pareto import METRIC

WINNER, TEACHER = "winner", "teacher"
UNITS = "Units of the texts that metrics and baselines count"

log = logging.getLogger(__name__)


class UnseenRows(NamedTuple):
    """What is known of the test rows beside their texts."""

    fingerprint: str
    asked: str  # the same of inputs and labels alone: what models are compared on
    labels: list[str]
    slices: dict[str, list[str]]  # column of `data.slices`: the group of each row
    counted: str = units.WORDS  # units of the texts that metrics and baselines count


@dataclass(frozen=True)
class Compared:
    """What a task says of a winner beside the figures of all contenders."""

    fields: dict[str, Any] = field(default_factory=dict)  # of the manifest
    files: dict[str, str] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)  # below the table
    verdicts: list[str] = field(default_factory=list)  # above it
    judgement: Judgement | None = None


def compare(
    recipe: Recipe,
    test: UnseenRows,
    measured: Mapping[str, Measured],
    shapes: Sequence[tuple[int, int]],
    machine: table.Machine | None = None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """(fields of the manifest, files beside it) of what was `measured` on the test rows and timed at `shapes`."""
    task = recipe.judged_by
    answers = {name: copy.deepcopy(each.figures) for name, each in measured.items()}
    baselines = [each.contender for each in task.baselines.values() if each.contender in answers]
    beaten = table.beaten(leads(measured, baselines, task.metric), answers, task.metric)
    if beaten:
        log.warning(beaten)
    said = named(task.compare)(recipe, test, measured, answers, baselines) if task.compare else Compared()
    verdicts = [*filter(None, [beaten]), *said.verdicts]
    first = list(verdicts)
    if said.judgement:
        first.insert(1 if beaten else 0, f"The winner is {said.judgement.words}.")
    whole = TEACHER in answers
    gap = difference_of(measured[WINNER], measured[TEACHER], task.metric) if whole else None
    busy = busy_words(answers)
    words = [
        *([table.difference_words(gap, task.metric)] if gap else []),
        *said.words,
        *([f"{busy}\n"] if busy else []),
        *([f"{UNITS}: {test.counted}.\n"] if test.counted != units.WORDS else []),
    ]
    shown = shown_shapes(shapes)
    head = [f"{each}\n" for each in first]
    fields = {
        "task": task.name,
        "answers": answers,
        "shapes": list(shapes),
        "metric": task.metric,
        "tested": None,
        "judged": None,
        "behind": [],
        "budgeted": {},
        **said.fields,
        "first": first,
        "verdict": " ".join(verdicts) or None,
        "metrics": _metrics(answers, measured, shapes, task, gap),
        "table": "\n".join([*head, table.markdown(answers, TEACHER if whole else None, shown, task), *words]),
    }
    if said.judgement:
        fields["metrics"]["inside"] = float(said.judgement.inside)
    files = said.files | {
        "metrics.json": json.dumps({name: flat(each) for name, each in answers.items()}, indent=2) + "\n"
    }
    further = []
    if machine:
        fields["metrics"] |= {f"{kind}_peak": best for kind, best in machine.peaks.items()}
        fields["notes"] = [f"{UNITS}: {test.counted}.", *table.notes(machine), *filter(None, [busy])]
        further = [table.latencies_markdown(answers, shapes), table.resources_markdown(answers, shown, machine)]
        shown_at = timed(BUDGET_SHAPE) if shapes else AS_THEY_COME
        title = task.titles.get(task.metric, "")
        files["comparison.svg"] = comparison.svg(answers, task.metric, shown_at, title=title)
    files["table.md"] = "\n".join([fields["table"], *further])
    return fields, files


def _metrics(
    answers: Mapping[str, Figures],
    measured: Mapping[str, Measured],
    shapes: Sequence[tuple[int, int]],
    task: Task,
    gap: table.Gap | None,
) -> dict[str, float]:
    """Figures of all contenders by name, and the winner's beside the teacher's where there is one."""
    metrics = table.flat(answers)
    if TEACHER not in answers:
        return metrics
    metrics |= table.ratios(answers, WINNER, TEACHER, shapes, task)
    if ends := interval_of(measured, operator.truediv):
        metrics |= dict(zip(("retention_low", "retention_high"), ends, strict=True))
    return metrics | (gap._asdict() if gap else {})


def shown_shapes(shapes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Of those that were timed: the budget's, and the largest batch of as many tokens."""
    same = [shape for shape in shapes if shape[1] == BUDGET_SHAPE[1]]
    return list(dict.fromkeys([BUDGET_SHAPE, max(same)])) if BUDGET_SHAPE in same else []


def tested_of(test: UnseenRows, measured: Mapping[str, Measured], task: Task) -> Tested:
    """The winner's figures as its evidence; without a teacher, or one that is never right, there is no retention."""
    ours = measured[WINNER].figures
    whole = measured[TEACHER].figures["metrics"][task.metric] if TEACHER in measured else 0.0
    limited = table.budgeted(ours, whole or math.nan, task)
    low, high = (interval_of(measured, operator.truediv) if whole else None) or (None, None)
    return Tested(
        asked=test.asked,
        rows=len(test.labels),
        metric=task.metric,
        value=limited[METRIC],
        value_low=ours["metrics"].get(f"{task.metric}_low"),
        value_high=ours["metrics"].get(f"{task.metric}_high"),
        retention=limited["retention"] if whole else None,
        retention_low=low,
        retention_high=high,
        p95_ms=limited["p95_ms"],
        megabytes=limited["megabytes"],
    )


def interval_of(measured: Mapping[str, Measured], of: Callable[[float, float], float]) -> tuple[float, float] | None:
    """The interval of what `of` makes of winner's and teacher's metric over the same resampled rows.

    None where none were drawn, and of a ratio where the teacher is right on none of a draw.
    """
    ours, theirs = measured[WINNER].resampled, measured[TEACHER].resampled
    if of is operator.truediv and not all(theirs):
        return None
    return _paired(ours, theirs, of)


def _paired(
    ours: Sequence[float], theirs: Sequence[float], of: Callable[[float, float], float]
) -> tuple[float, float] | None:
    """The interval of what `of` makes of two metrics, draw by draw; None where no rows were resampled."""
    if not (ours and theirs):
        return None
    return interval([of(our, their) for our, their in zip(ours, theirs, strict=True)])


def difference_of(ours: Measured, theirs: Measured, metric: str) -> table.Gap | None:
    """A metric less another contender's, and the interval of that; None where no rows were resampled."""
    ends = _paired(ours.resampled, theirs.resampled, operator.sub)
    if ends is None:
        return None
    return table.Gap(ours.figures["metrics"][metric] - theirs.figures["metrics"][metric], *ends)


def leads(measured: Mapping[str, Measured], baselines: Sequence[str], metric: str) -> dict[str, dict[str, table.Gap]]:
    """{baseline: {teacher or winner: by how much it is better}}, where the interval of that over the same rows holds no
    0."""
    found: dict[str, dict[str, table.Gap]] = {}
    for name in baselines:
        for other in (TEACHER, WINNER):
            gap = difference_of(measured[name], measured[other], metric) if other in measured else None
            if gap and gap.difference_low > 0:
                found.setdefault(name, {})[other] = gap
    return found
