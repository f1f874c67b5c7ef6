"""Profiles of validation rows, and services that are compared with them."""

from collections.abc import Sequence

import pytest

from jobs.measure.answers import Answer
from jobs.measure.profile import BINS, of_labels, of_numbers, profile
from serving.drift import CHARACTERS, CONFIDENCE, LABEL


def test_bins_of_numbers_hold_about_as_many_each():
    found = of_numbers(range(1, 101))
    assert len(found.counts) == BINS and set(found.counts) == {10}
    assert found.bin_of(1) == found.bin_of(-5) == 0 and found.bin_of(10_000) == BINS - 1


@pytest.mark.parametrize(
    ("values", "bounds", "counts"),
    [
        ([1, 1, 1, 1, 1, 1, 1, 2, 3, 4, 5], [1, 2, 3, 4], [7, 1, 1, 1, 1]),
        ([3], [3], [1, 0]),
        ([4, 4, 4], [4], [3, 0]),
    ],
)
def test_a_value_that_many_have_ends_one_bin(values: Sequence[float], bounds: list[float], counts: list[int]):
    found = of_numbers(values)
    assert (found.bounds, found.counts) == (bounds, counts)


def test_labels_that_no_row_has_are_counted_too():
    found = of_labels(["b", "b", "a"], ["a", "b", "c"])
    assert (found.values, found.counts) == (["a", "b", "c"], [1, 2, 0])


def test_texts_have_lengths_alone():
    assert profile([3, 4]).root.keys() == {CHARACTERS}
    answers = [Answer("a", 0.5), Answer("b", 0.75)]
    assert profile([3, 4], answers, ["a", "b"]).root.keys() == {CHARACTERS, LABEL, CONFIDENCE}
