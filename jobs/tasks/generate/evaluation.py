"""Answers of decoders: a text for each row."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.session import JobError
from configs.schema.recipe import Recipe
from configs.schema.tasks import named
from jobs.data.source import Row
from jobs.measure.answers import Answer, Predictor
from jobs.measure.comparison import TEACHER, WINNER, Special, UnseenRows
from jobs.measure.measurement import Measured
from jobs.measure.profile import profile
from jobs.measure.served import SMOKE
from serving.bundle import Bundle
from serving.drift import Profile
from serving.generator import Generator, load_generator
from serving.inputs import Input, prompt
from serving.pieces import CUT
from tuning.figures import Figures


@dataclass(frozen=True)
class Writing:
    """The predictor of a bundle that writes texts."""

    generator: Generator

    def __call__(self, inputs: Sequence[Input]) -> list[Answer]:
        """Texts, in order."""
        found = self.generator.predict(inputs)
        return [Answer(each["text"], held=bool(each["faults"]) if "faults" in each else None) for each in found]

    def profile(self, inputs: Sequence[Input], answers: Sequence[Answer]) -> Profile:
        """Of lengths of the prompts."""
        return profile([len(words) for words in self.generator.worded(inputs)])

    def of_length(self, prompt: int, answer: int) -> Predictor:
        """See `LoadedContender`."""
        return lambda inputs: [Answer(each["text"]) for each in self.generator.of_length(inputs, prompt, answer)]

    def figures(self, inputs: Sequence[Input]) -> dict[str, float]:
        """No further figures."""
        return {}


def compare(
    recipe: Recipe, test: UnseenRows, measured: Mapping[str, Measured], answers: Mapping[str, Figures]
) -> Special:
    """Rows with what teacher and winner wrote for them, the winner's worst first."""
    return Special(fields={"examples": examples(recipe, test.rows, measured)})


def examples(
    recipe: Recipe, rows: Sequence[Row], measured: Mapping[str, Measured]
) -> list[dict[str, str | float | None]]:
    """`evaluation.examples` rows of different prompts, those first whose answer by the winner has the lowest metric.

    Where the metric of several rows is the same, as it often is 0, chrF decides between them.
    """
    task, theirs = recipe.judged_by, measured[TEACHER].answers if TEACHER in measured else None
    said = [each.text for each in measured[WINNER].answers]
    scores, alike = (
        [named(summed.value)(each) for each in named(summed.statistics)(said, rows)]
        for summed in (task.summed, task.metrics["chrf"])
    )
    by_prompt: dict[str, int] = {}
    for place in sorted(range(len(rows)), key=lambda place: (scores[place], alike[place])):
        by_prompt.setdefault(prompt(rows[place].text, rows[place].pair).rstrip(), place)
    return [
        {
            "prompt": text,
            "reference": rows[place].label,
            "teacher": theirs[place].text if theirs else None,
            "winner": said[place],
            "score": scores[place],
        }
        for text, place in itertools.islice(by_prompt.items(), recipe.evaluation.examples)
    ]


def smoke(uri: str, folder: Path, bundle: Bundle) -> None:
    """Write one text through the runtime that will serve: as a stream it is what it is at once, or it is held back."""
    generator, question = load_generator(folder), (SMOKE, SMOKE) if bundle.pairs else SMOKE
    pieces: list[str] = []
    generator.write(question, pieces.append)
    whole = generator.checked([question])[0]["text"] if generator.checks else generator.likeliest(question)
    if "".join(pieces) != whole.rstrip(CUT):
        raise JobError(
            f"{uri}: not deployed: the smoke request was answered with {len(''.join(pieces))} characters as a stream, "
            f"with {len(whole)} at once, and not the same ones"
        )
