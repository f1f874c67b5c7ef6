"""What a contender is asked about a row, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from jobs.data.source import Row
from serving.inputs import Input

FIRST_SHARE = "first_share"  # of the rows, that a cascade's first model answers


class Answer(NamedTuple):
    """A label or a generated text, and the probability of the label where the contender gives one."""

    text: str
    score: float | None = None


class Predictor(Protocol):
    """Inputs in, answers out, in order."""

    def __call__(self, inputs: Sequence[Input]) -> list[Answer]: ...


class LoadedContender(Predictor, Protocol):
    """A contender that is ready to answer."""

    def figures(self, inputs: Sequence[Input]) -> dict[str, float]:
        """What else is known of how it answers these inputs, as metrics."""
        ...


@dataclass(frozen=True)
class Fitted:
    """A predictor that is no folder, and the bytes of what it needs to answer."""

    predict: Callable[[Sequence[Input]], list[Answer]]
    bytes: int

    def __call__(self, inputs: Sequence[Input]) -> list[Answer]:
        """Answers, in order."""
        return self.predict(inputs)

    def figures(self, inputs: Sequence[Input]) -> dict[str, float]:
        """None."""
        return {}


def input_of(row: Row) -> Input:
    """What a bundle is asked about a row."""
    return row.input
