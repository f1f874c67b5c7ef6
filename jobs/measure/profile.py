"""How the inputs and answers are distributed that a bundle was measured on: what its service is compared with."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from jobs.measure.answers import Answer
from serving.drift import CHARACTERS, CONFIDENCE, LABEL, Distribution, Profile

BINS = 10  # of numbers, at most


def profile(lengths: Sequence[int], answers: Sequence[Answer] = (), labels: Sequence[str] = ()) -> Profile:
    """Distributions of the lengths of one input or more; where answers are given, also of their labels and confidence.

    `labels` are all that there are.
    """
    found = {CHARACTERS: of_numbers(lengths)}
    if answers:
        found[LABEL] = of_labels([each.text for each in answers], labels)
        found[CONFIDENCE] = of_numbers([each.score for each in answers if each.score is not None])
    return Profile(found)


def of_numbers(values: Sequence[float]) -> Distribution:
    """Counts between the quantiles of one value or more, so that each bin holds about as many.

    A value that many have ends one bin alone, so that there are fewer. Where all are the same, larger ones have a bin.
    """
    ends = statistics.quantiles(values, n=BINS, method="inclusive") if len(values) > 1 else []
    bounds = sorted({float(end) for end in ends if end < max(values)}) or [float(max(values))]
    counted = Counter(map(Distribution(bounds=bounds, counts=[1] * (len(bounds) + 1)).bin_of, values))
    return Distribution(bounds=bounds, counts=[counted[place] for place in range(len(bounds) + 1)])


def of_labels(given: Sequence[str], labels: Sequence[str]) -> Distribution:
    """Counts of each label among those that one row or more were given."""
    counted = Counter(given)
    return Distribution(values=list(labels), counts=[counted[label] for label in labels])
