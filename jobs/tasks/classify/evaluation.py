"""Answers of classifiers, a label with its probability for each row, and differences of a winner from its teacher."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.session import JobError
from configs.schema.recipe import Recipe
from jobs.measure import table
from jobs.measure.answers import FIRST_SHARE, Answer
from jobs.measure.comparison import TEACHER, WINNER, Compared, UnseenRows, tested_of
from jobs.measure.differences import CLASS, as_csv, by_value, right, summary, worst
from jobs.measure.gate import judge
from jobs.measure.measurement import Measured
from jobs.measure.served import SMOKE
from serving.bundle import Bundle
from serving.cascade import Cascade
from serving.classifier import Classifier
from serving.inputs import Input
from serving.runtime import load_bundle
from tuning.figures import Figures

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Labelling:
    """The predictor of a bundle that classifies."""

    classifier: Classifier

    def __call__(self, inputs: Sequence[Input]) -> list[Answer]:
        """Answers with their probabilities, in order."""
        return [Answer(each["label"], each["score"]) for each in self.classifier.predict(inputs)]

    def figures(self, inputs: Sequence[Input]) -> dict[str, float]:
        """The share of the inputs that the first model of a cascade answers."""
        return {FIRST_SHARE: self.classifier.share_first(inputs)} if isinstance(self.classifier, Cascade) else {}


def compare(
    recipe: Recipe,
    test: UnseenRows,
    measured: Mapping[str, Measured],
    answers: Mapping[str, Figures],
    baselines: Sequence[str],
) -> Compared:
    """Agreement, calibration, classes and slices in which the winner is behind, and whether it is inside the budget.

    `answers` are the figures of all contenders, to which figures of their labels are added.
    """
    compared, task = Compared(fields={}), recipe.judged_by
    said = {name: each.answers for name, each in measured.items()}
    for name, each in said.items():
        answers[name]["metrics"] |= summary(each, test.labels, said.get(TEACHER))
    teacher = TEACHER in answers
    ours = right(said[WINNER], test.labels)
    theirs = right(said[TEACHER], test.labels) if teacher else None
    if words := table.cascade(answers[WINNER], answers[TEACHER] if teacher else None):
        compared.words.append(words + "\n")
    classes = by_value(CLASS, test.labels, ours, theirs)
    slices = [each for name, groups in test.slices.items() for each in by_value(name, groups, ours, theirs)]
    compared.files.update({"classes.csv": as_csv(classes), "slices.csv": as_csv(slices)})
    tested = tested_of(test, measured, task)
    compared.fields["tested"] = tested.model_dump()
    if not teacher:
        return compared
    judgement = judge(tested, recipe.budget)
    log.log(logging.INFO if judgement.inside else logging.WARNING, "the winner is %s", judgement.words)
    compared.fields["judged"] = judgement._asdict()
    if whole := answers[TEACHER]["metrics"][task.metric]:
        compared.fields["budgeted"] = {name: table.budgeted(each, whole, task) for name, each in answers.items()}
    if verdict := table.verdict(answers, baselines, WINNER, TEACHER, recipe.budget, task):
        log.log(logging.WARNING if verdict.beaten else logging.INFO, verdict.words)
        compared.verdicts.append(verdict.words)
    behind = [*worst(classes), *worst(slices)]  # ranked apart: slices are large, and differ less than classes do
    compared.fields["behind"] = [each._asdict() for each in behind]
    compared.words.append(table.differences_markdown(behind))
    return replace(compared, judgement=judgement)


def smoke(uri: str, folder: Path, bundle: Bundle) -> None:
    """Answer one request through the runtime that will serve."""
    prediction = load_bundle(folder).predict([(SMOKE, SMOKE) if bundle.pairs else SMOKE])[0]
    if prediction["label"] not in bundle.labels or not 0 < prediction["score"] <= 1:
        raise JobError(
            f"{uri}: not deployed: the smoke request was answered {prediction['label']!r} {prediction['score']}"
        )
