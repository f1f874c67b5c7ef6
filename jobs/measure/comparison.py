"""The final evaluation as its manifest and files: every contender's figures, and where the winner differs."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jobs.measure import table
from jobs.measure.differences import CLASS, as_csv, by_value, right, summary, worst
from jobs.measure.fresh import BUDGET_SHAPE, Measured
from jobs.recipe import Recipe
from jobs.tasks.table import TASKS

WINNER, TEACHER = "winner", "teacher"
TFIDF, STATIC = "tfidf_svm", "static_logreg"
SHOWN = (BUDGET_SHAPE, (16, 32))  # of the shapes that were timed, in the table

log = logging.getLogger(__name__)


class UnseenRows(NamedTuple):
    """What is known of the test rows beside their texts."""

    fingerprint: str
    labels: list[str]
    slices: dict[str, list[str]]  # column of `data.slices`: the group of each row


def compare(
    recipe: Recipe, test: UnseenRows, measured: Mapping[str, Measured], shapes: Sequence[tuple[int, int]]
) -> tuple[dict[str, Any], dict[str, str]]:
    """(fields of the manifest, files beside it) of what was `measured` on the test rows and timed at `shapes`."""
    task = TASKS[recipe.task]
    answers = {name: dict(each.metrics) for name, each in measured.items()}
    teacher = TEACHER if TEACHER in answers else None
    fields: dict[str, Any] = {"answers": answers, "verdict": None, "behind": []}
    files: dict[str, str] = {}
    words: list[str] = []
    if recipe.task == "classify":
        said = {name: each.answers for name, each in measured.items()}
        for name, each in said.items():
            answers[name] |= summary(each, test.labels, said.get(TEACHER))
        ours = right(said[WINNER], test.labels)
        theirs = right(said[TEACHER], test.labels) if teacher else None
        if cascade := table.cascade(answers[WINNER], answers[TEACHER] if teacher else None):
            words.append(cascade + "\n")
        classes = by_value(CLASS, test.labels, ours, theirs)
        slices = [each for name, groups in test.slices.items() for each in by_value(name, groups, ours, theirs)]
        files |= {"classes.csv": as_csv(classes), "slices.csv": as_csv(slices)}
        if teacher:
            baselines = [name for name in (TFIDF, STATIC) if name in answers]
            if verdict := table.verdict(answers, baselines, WINNER, TEACHER, recipe.budget, task):
                log.log(logging.WARNING if verdict.beaten else logging.INFO, verdict.words)
                fields["verdict"] = verdict.words
                words.append(verdict.words + "\n")
            behind = [*worst(classes), *worst(slices)]  # apart: slices are large, and differ less than classes do
            fields["behind"] = [each._asdict() for each in behind]
            words.append(table.differences_markdown(behind))
    fields["metrics"] = table.flat(answers) | (table.ratios(answers, WINNER, TEACHER, shapes, task) if teacher else {})
    rows = table.markdown(answers, teacher, [shape for shape in SHOWN if shape in shapes], task)
    fields["table"] = "\n".join([rows, *words])
    return fields, files | {"table.md": fields["table"], "metrics.json": json.dumps(answers, indent=2) + "\n"}
