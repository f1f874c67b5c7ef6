"""What a contender is asked about a row, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from jobs.data.source import Row
from serving.drift import Profile
from serving.inputs import Input

UNSCORED = "no row has attributes, which this metric counts; choose another metric"
FIRST_SHARE = "first_share"  # of the rows, that a cascade's first model answers


class Answer(NamedTuple):
    """A label or a generated text, the probability of the label where the contender gives one, and what checks say."""

    text: str
    score: float | None = None
    held: bool | None = None  # whether the text is held back; None where it was not checked


class KindTest(NamedTuple):
    """What a bundle of a kind is asked of the test rows beside the metrics of its task."""

    key: str  # digest of all that the figures depend on beside the answers
    judge: Callable[[Sequence[Answer]], tuple[dict[str, float], str]]  # metrics of the answers, and what they say


class Predictor(Protocol):
    """Inputs in, answers out, in order."""

    def __call__(self, inputs: Sequence[Input]) -> list[Answer]: ...


class LoadedContender(Predictor, Protocol):
    """A contender that is ready to answer."""

    def figures(self, inputs: Sequence[Input]) -> dict[str, float]:
        """What else is known of how it answers these inputs, as metrics."""
        ...

    def profile(self, inputs: Sequence[Input], answers: Sequence[Answer]) -> Profile | None:
        """How these inputs, and its answers to them, are distributed; None where no service answers by it."""
        ...

    def of_length(self, prompt: int, answer: int) -> Predictor:
        """The same, but reading `prompt` tokens and writing `answer` tokens, whatever would end the text; itself where
        it writes no tokens."""
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

    def profile(self, inputs: Sequence[Input], answers: Sequence[Answer]) -> None:
        """None."""

    def of_length(self, prompt: int, answer: int) -> Predictor:
        """Itself: it finds its answers."""
        return self


def input_of(row: Row) -> Input:
    """What a bundle is asked about a row."""
    return row.input
