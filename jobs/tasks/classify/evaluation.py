"""Answers of classifiers, a label with its probability for each row, and differences of a winner from its teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.session import JobError
from configs.schema.recipe import Recipe
from jobs.measure import table
from jobs.measure.answers import FIRST_SHARE, Answer, Predictor
from jobs.measure.comparison import TEACHER, WINNER, Special, UnseenRows
from jobs.measure.differences import CLASS, as_csv, by_value, right, summary, worst
from jobs.measure.measurement import Measured
from jobs.measure.profile import profile
from jobs.measure.served import SMOKE
from serving.bundle import Bundle
from serving.cascade import Cascade
from serving.classifier import Classifier
from serving.drift import Profile
from serving.inputs import Input, characters
from serving.runtime import load_bundle
from tuning.figures import Figures


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

    def profile(self, inputs: Sequence[Input], answers: Sequence[Answer]) -> Profile:
        """Of lengths, labels and confidence."""
        rows = self.classifier.rows(inputs)
        return profile([characters(row) for row in rows], answers, self.classifier.bundle.labels)

    def of_length(self, prompt: int, answer: int) -> Predictor:
        """Itself: it writes no tokens."""
        return self


def compare(
    recipe: Recipe, test: UnseenRows, measured: Mapping[str, Measured], answers: Mapping[str, Figures]
) -> Special:
    """Agreement, calibration, and classes and slices in which the winner is behind.

    `answers` are the figures of all contenders, to which figures of their labels are added.
    """
    said = {name: each.answers for name, each in measured.items()}
    for name, each in said.items():
        answers[name]["metrics"] |= summary(each, test.labels, said.get(TEACHER))
    teacher = TEACHER in answers
    ours = right(said[WINNER], test.labels)
    theirs = right(said[TEACHER], test.labels) if teacher else None
    cascade = table.cascade(answers[WINNER], answers[TEACHER] if teacher else None)
    classes = by_value(CLASS, test.labels, ours, theirs)
    slices = [each for name, groups in test.slices.items() for each in by_value(name, groups, ours, theirs)]
    behind = [*worst(classes), *worst(slices)]  # ranked apart: slices are large, and differ less than classes do
    return Special(
        fields={"behind": [each._asdict() for each in behind]},
        files={"classes.csv": as_csv(classes), "slices.csv": as_csv(slices)},
        words=[*([f"{cascade}\n"] if cascade else []), *([table.differences_markdown(behind)] if teacher else [])],
    )


def smoke(uri: str, folder: Path, bundle: Bundle) -> None:
    """Answer one request through the runtime that will serve."""
    prediction = load_bundle(folder).predict([(SMOKE, SMOKE) if bundle.pairs else SMOKE])[0]
    if prediction["label"] not in bundle.labels or not 0 < prediction["score"] <= 1:
        raise JobError(
            f"{uri}: not deployed: the smoke request was answered {prediction['label']!r} {prediction['score']}"
        )
