"""Where a student differs from its teacher: same answers, calibration, accuracy by class and by slice of the rows."""

from __future__ import annotations

import bisect
import csv
import io
import itertools
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from configs.loader import UsageError
from jobs.measure.answers import Answer

CLASS = "class"
BINS = 15  # of confidence
MOST_VALUES = 50  # of a slice that stand alone
FEW_VALUES = 10  # that are groups also where few rows have each
LEAST_ROWS = 10  # of a class or slice whose difference is shown; one row more or less moves smaller ones by over 10 %
WORST = 10
MISSING, OTHERS = "(no value)", "(others)"


class Difference(NamedTuple):
    """Accuracy of both on the rows that have `value` in column `slice`; on those of a class this is its recall."""

    slice: str
    value: str
    rows: int
    teacher: float | None
    winner: float

    @property
    def difference(self) -> float | None:
        """Below 0 where the winner is behind; None without a teacher."""
        return None if self.teacher is None else self.winner - self.teacher


def summary(answers: Sequence[Answer], labels: Sequence[str], teacher: Sequence[Answer] | None) -> dict[str, float]:
    """`agreement` with the teacher, where there is another one, and `ece`, where the answers have probabilities."""
    found = {}
    if teacher is not None and teacher is not answers:
        found["agreement"] = agreement([each.text for each in answers], [each.text for each in teacher])
    scores = [each.score for each in answers if each.score is not None]
    if len(scores) == len(answers):
        found["ece"] = expected_calibration_error(scores, right(answers, labels))
    return found


def right(answers: Sequence[Answer], labels: Sequence[str]) -> list[bool]:
    """Whether each answer is the label."""
    return [answer.text == label for answer, label in zip(answers, labels, strict=True)]


def agreement(ours: Sequence[str], theirs: Sequence[str]) -> float:
    """Share of the rows that both give the same label."""
    return sum(our == their for our, their in zip(ours, theirs, strict=True)) / len(ours)


def expected_calibration_error(scores: Sequence[float], correct: Sequence[bool], bins: int = BINS) -> float:
    """|accuracy - mean score| of each of `bins` equal bins of the score, averaged by rows: 0 is honest, 1 the worst.

    `scores` are probabilities [N] of the answers given. Guo et al. 2017 (arXiv 1706.04599), equation 3: bin m holds
    scores in ((m - 1) / bins, m / bins].
    """
    import numpy as np

    score_N, correct_N = np.asarray(scores, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    bin_N = np.clip(np.ceil(score_N * bins).astype(int) - 1, 0, bins - 1)
    return float(np.abs(np.bincount(bin_N, weights=correct_N - score_N, minlength=bins)).sum() / len(score_N))


def grouped(column: str, values: Sequence[str]) -> list[str]:
    """The group of each value of a slice: the value itself while there are at most `MOST_VALUES`.

    Of more, numbers are grouped by quartile, and other values beside the most frequent ones are one group. Where values
    hardly repeat, numbers are grouped so too, and others are refused: ids and free texts are no groups, and belong in
    no report.
    """
    counts = Counter(value for value in values if value)
    hardly_repeats = len(counts) > FEW_VALUES and 2 * len(counts) > counts.total()
    if len(counts) > MOST_VALUES or hardly_repeats:
        numbers = [_number(value) for value in values if value]
        if None not in numbers:
            return _by_quartile(values, [number for number in numbers if number is not None])
        if hardly_repeats:
            raise UsageError(
                f"data.slices: {column!r}: {len(counts)} different values in {counts.total()} rows look like ids or "
                "texts; name a column whose values repeat"
            )
    kept = {value for value, _ in counts.most_common(MOST_VALUES)}
    return [MISSING if not value else value if value in kept else OTHERS for value in values]


def by_value(
    column: str, values: Sequence[str], winner: Sequence[bool], teacher: Sequence[bool] | None
) -> list[Difference]:
    """Accuracy on the rows of each value, the worst difference first; `winner`, `teacher`: which rows were right."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, value in enumerate(values):
        places[value].append(place)

    def accuracy(correct: Sequence[bool], rows: Sequence[int]) -> float:
        return sum(correct[row] for row in rows) / len(rows)

    found = [
        Difference(column, value, len(rows), accuracy(teacher, rows) if teacher else None, accuracy(winner, rows))
        for value, rows in places.items()
    ]
    return sorted(found, key=_badness)


def worst(found: Iterable[Difference]) -> list[Difference]:
    """The classes and slices of at least `LEAST_ROWS` rows where the winner is furthest behind, at most `WORST`."""
    behind = [each for each in found if each.rows >= LEAST_ROWS and (each.difference or 0) < 0]
    return sorted(behind, key=_badness)[:WORST]


def as_csv(found: Iterable[Difference]) -> str:
    """One line for each, shares of 1; teacher and difference are empty without a teacher."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow([*Difference._fields, "difference"])
    for each in found:
        shares = ("" if share is None else f"{share:.6f}" for share in (each.teacher, each.winner, each.difference))
        lines.writerow([each.slice, each.value, each.rows, *shares])
    return text.getvalue()


def _badness(each: Difference) -> tuple[float, int, str]:
    return (each.winner if each.difference is None else each.difference), -each.rows, each.value


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _by_quartile(values: Sequence[str], numbers: Sequence[float]) -> list[str]:
    edges = sorted(set(statistics.quantiles(numbers, n=4, method="inclusive")))
    ends = [f"{edge:.12g}" for edge in edges]
    between = [f"over {low} to {high}" for low, high in itertools.pairwise(ends)]
    names = [f"up to {ends[0]}", *between, f"over {ends[-1]}"]
    return [names[bisect.bisect_left(edges, float(value))] if value else MISSING for value in values]
