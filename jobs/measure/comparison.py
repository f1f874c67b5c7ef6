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
from jobs.data.source import Row
from jobs.measure import table
from jobs.measure.bootstrap import interval
from jobs.measure.gate import Judgement, Tested, judge
from jobs.measure.measurement import Measured
from jobs.measure.timing import busy_words
from serving import units
from tuning import comparison
from tuning.figures import Figures, Shape, flat, timed
from tuning.pareto import METRIC, PACE, SENT

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
    rows: Sequence[Row] = ()


@dataclass(frozen=True)
class Special:
    """What only one task says of a winner, beside the figures of all contenders."""

    fields: dict[str, Any] = field(default_factory=dict)  # of the manifest
    files: dict[str, str] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)  # below the table


class Held(NamedTuple):
    """A winner held against the budget, its teacher and the baselines."""

    fields: dict[str, Any]  # of the manifest
    judgement: Judgement | None  # None without a teacher
    verdict: str | None  # on the baselines


def compare(
    recipe: Recipe,
    test: UnseenRows,
    measured: Mapping[str, Measured],
    shapes: Sequence[Shape],
    machine: table.Machine | None = None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """(fields of the manifest, files beside it) of what was `measured` on the test rows and timed at `shapes`."""
    task = recipe.judged_by
    answers = {name: copy.deepcopy(each.figures) for name, each in measured.items()}
    baselines = [each.contender for each in task.baselines.values() if each.contender in answers]
    beaten = table.beaten(leads(measured, baselines, task.metric), answers, task.metric)
    if beaten:
        log.warning(beaten)
    said = named(task.compare)(recipe, test, measured, answers) if task.compare else Special()
    held = _held(recipe, test, measured, answers, baselines)
    verdicts = [each for each in (beaten, held.verdict) if each]
    first = list(verdicts)
    if held.judgement:
        first.insert(1 if beaten else 0, f"The winner is {held.judgement.words}.")
    whole = TEACHER in answers
    gap = difference_of(measured[WINNER], measured[TEACHER], task.metric) if whole else None
    shown = table.markdown(answers, TEACHER if whole else None, shown_shapes(shapes, task), task)
    metrics = _metrics(answers, measured, shapes, task, gap)
    fields = {
        "task": task.name,
        "answers": answers,
        "shapes": list(shapes),
        "metric": task.metric,
        **held.fields,
        **said.fields,
        "first": first,
        "verdict": " ".join(verdicts) or None,
        "metrics": metrics | ({"inside": float(held.judgement.inside)} if held.judgement else {}),
        "table": "\n".join([*(f"{each}\n" for each in first), shown, *_words(gap, said, answers, test, task)]),
    }
    files = said.files | {
        "metrics.json": json.dumps({name: flat(each) for name, each in answers.items()}, indent=2) + "\n",
        "table.md": fields["table"],
    }
    if machine:
        _add_machine(fields, files, machine, shapes, test, task)
    return fields, files


def _words(
    gap: table.Gap | None, said: Special, answers: Mapping[str, Figures], test: UnseenRows, task: Task
) -> list[str]:
    """What stands below the table."""
    busy = busy_words(answers)
    return [
        *([table.difference_words(gap, task.metric)] if gap else []),
        *said.words,
        *([f"{busy}\n"] if busy else []),
        *([f"{UNITS}: {test.counted}.\n"] if test.counted != units.WORDS else []),
    ]


def _add_machine(
    fields: dict[str, Any],
    files: dict[str, str],
    machine: table.Machine,
    shapes: Sequence[Shape],
    test: UnseenRows,
    task: Task,
) -> None:
    """Add to the fields and files of a comparison what its `machine` was asked, and the picture."""
    answers, busy = fields["answers"], busy_words(fields["answers"])
    fields["metrics"] |= {f"{kind}_peak": best for kind, best in machine.peaks.items()}
    fields["notes"] = [f"{UNITS}: {test.counted}.", *table.notes(machine, task), *([busy] if busy else [])]
    latencies = table.latencies_markdown(answers, shapes, task)
    resources = table.resources_markdown(answers, shown_shapes(shapes, task), machine, task)
    files["table.md"] = "\n".join([fields["table"], latencies, resources])
    title = task.titles.get(task.metric, "")
    files["comparison.svg"] = comparison.svg(answers, task.metric, timed(task.shape), title=title)


def _held(
    recipe: Recipe,
    test: UnseenRows,
    measured: Mapping[str, Measured],
    answers: Mapping[str, Figures],
    baselines: Sequence[str],
) -> Held:
    """Whether the winner is inside the budget, and a baseline would do in its place; says so."""
    task = recipe.judged_by
    tested = tested_of(test, measured, task)
    fields: dict[str, Any] = {"tested": tested.model_dump(), "judged": None, "budgeted": {}}
    if TEACHER not in answers:
        return Held(fields, None, None)
    judgement = judge(tested, recipe.budget)
    log.log(logging.INFO if judgement.inside else logging.WARNING, "the winner is %s", judgement.words)
    fields["judged"] = judgement._asdict()
    if whole := answers[TEACHER]["metrics"][task.metric]:
        fields["budgeted"] = {name: table.budgeted(each, whole, task) for name, each in answers.items()}
    verdict = table.verdict(answers, baselines, WINNER, TEACHER, recipe.budget, task)
    if verdict:
        log.log(logging.WARNING if verdict.beaten else logging.INFO, verdict.words)
    return Held(fields, judgement, verdict.words if verdict else None)


def _metrics(
    answers: Mapping[str, Figures],
    measured: Mapping[str, Measured],
    shapes: Sequence[Shape],
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


def shown_shapes(shapes: Sequence[Shape], task: Task) -> list[Shape]:
    """Of those that were timed: the budget's, and the largest batch of as many tokens."""
    same = [shape for shape in shapes if shape[1:] == task.shape[1:]]
    return list(dict.fromkeys([task.shape, max(same)])) if task.shape in same else []


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
        ms_per_token=limited.get(PACE),
        megabytes=limited["megabytes"],
        **{name: limited.get(name) for name in SENT},
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
