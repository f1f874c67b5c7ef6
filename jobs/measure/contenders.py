"""What can be measured side by side: an exported bundle, an eager torch model, a baseline made of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from configs.loader import Spec
from configs.schema.data import DataSpec
from jobs.measure.answers import Answer, Predictor
from serving.bundle import read_description
from serving.classifier import Classifier
from serving.inputs import Input

FITTED = ("nearest",)  # kinds that are made of the training rows when they are loaded


class Contender(Spec):
    """One system under measurement."""

    name: str
    kind: Literal["bundle", "reference", "nearest"]
    folder: str | None = None  # the bundle
    shapes: list[tuple[int, int]] | None = None  # those it is timed at, of all that are; None: all
    tokenizer: str | None = None  # file whose tokens count at a shape; None: the same one for all


@dataclass(frozen=True)
class Labelling:
    """The predictor of a bundle that classifies."""

    classifier: Classifier

    def __call__(self, inputs: Sequence[Input]) -> list[Answer]:
        """Answers with their probabilities, in order."""
        return [Answer(each["label"], each["score"]) for each in self.classifier.predict(inputs)]


def load(contender: Contender, data: DataSpec, threads: int) -> Predictor:
    """A ready predictor that uses `threads` threads."""
    if contender.kind == "nearest":
        from jobs.measure.baselines import fit_nearest

        return fit_nearest(data)
    assert contender.folder is not None
    folder = Path(contender.folder)
    if contender.kind == "bundle":
        from serving.generator import load_generator
        from serving.runtime import load_bundle
    else:
        from jobs.measure.reference import load_decoder as load_generator
        from jobs.measure.reference import load_reference as load_bundle

    if read_description(folder).task == "generate":
        generator = load_generator(folder, threads)
        return lambda inputs: [Answer(each["text"]) for each in generator.predict(inputs)]
    return Labelling(load_bundle(folder, threads))
