"""Answers of decoders: a text for each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.measure.answers import Answer
from serving.generator import Generator
from serving.inputs import Input


@dataclass(frozen=True)
class Writing:
    """The predictor of a bundle that writes texts."""

    generator: Generator

    def __call__(self, inputs: Sequence[Input]) -> list[Answer]:
        """Texts, in order."""
        return [Answer(each["text"]) for each in self.generator.predict(inputs)]

    def figures(self, inputs: Sequence[Input]) -> dict[str, float]:
        """No further figures."""
        return {}
