"""Answers of decoders: a text for each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.session import JobError
from jobs.measure.answers import Answer
from jobs.measure.served import SMOKE
from serving.bundle import Bundle
from serving.generator import Generator, load_generator
from serving.inputs import Input
from serving.pieces import CUT


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


def smoke(uri: str, folder: Path, bundle: Bundle) -> None:
    """Write one text through the runtime that will serve: as a stream it is what it is at once."""
    generator, question = load_generator(folder), (SMOKE, SMOKE) if bundle.pairs else SMOKE
    pieces: list[str] = []
    generator.write(question, pieces.append)
    whole = generator.likeliest(question)
    if "".join(pieces) != whole.rstrip(CUT):
        raise JobError(
            f"{uri}: not deployed: the smoke request was answered with {len(''.join(pieces))} characters as a stream, "
            f"with {len(whole)} at once, and not the same ones"
        )
