"""Distributions of inputs and answers, compared with those of the validation rows."""

import math
import random
import statistics
from pathlib import Path

import pytest
from pydantic import ValidationError

from serving.bundle import PROFILE, BundleError
from serving.drift import PER_BIN, WINDOW, Distribution, Window, read_profile, stability


def test_stability_is_the_formula_less_what_chance_makes():
    p, q = (50.5 / 101, 50.5 / 101), (80.5 / 101, 20.5 / 101)
    index = (q[0] - p[0]) * math.log(q[0] / p[0]) + (q[1] - p[1]) * math.log(q[1] / p[1])
    assert stability([50, 50], [80, 20]) == pytest.approx(index - (1 / 100 + 1 / 100))
    assert stability([50, 50], [50, 50]) == pytest.approx(-0.02)
    assert math.isfinite(stability([100, 0], [0, 100]))  # an empty bin on either side


@pytest.mark.parametrize(("bins", "known", "new"), [(3, 500, 1000), (10, 300, 1000), (77, 2000, 1540)])
def test_two_samples_of_one_distribution_are_stable_on_average(bins: int, known: int, new: int):
    draw = random.Random(0)
    weights = [draw.uniform(0.5, 2) for _ in range(bins)]

    def sample(size: int) -> list[int]:
        drawn = draw.choices(range(bins), weights, k=size)
        return [drawn.count(each) for each in range(bins)]

    found = [stability(sample(known), sample(new)) for _ in range(60)]
    assert abs(statistics.mean(found)) < 0.01 and max(found) < 0.1


def test_a_window_tells_once_it_is_full_and_begins_anew():
    told: list[float] = []
    window = Window(Distribution(bounds=[10.0], counts=[500, 500]), told.append)
    for value in [10, 11] * (WINDOW // 2 - 1):
        window.add(value)
    assert not told
    window.add(10)
    window.add(11)
    assert told == [stability([500, 500], [WINDOW // 2] * 2)]
    for _ in range(WINDOW):
        window.add(10.5)
    assert told[1] == stability([500, 500], [0, WINDOW]) and told[1] > 0.25 > 0.01 > told[0]


def test_a_window_of_many_bins_is_larger_and_a_label_without_a_bin_is_left_out():
    labels = [str(number) for number in range(100)]
    told: list[float] = []
    window = Window(Distribution(values=labels, counts=[1] * 100), told.append)
    for label in [*labels, "of another bundle"] * PER_BIN:
        assert not told or label == "of another bundle"
        window.add(label)
    assert len(told) == 1


def test_a_wrong_profile_is_refused_in_one_line(tmp_path: Path):
    assert read_profile(tmp_path) is None
    for text, words in (
        ('{"label": {"values": ["a", "b"], "counts": [1]}}', "label: Value error, 1 counts for 2 bins"),
        ('{"characters": {"bounds": [2.0, 1.0], "counts": [1, 1, 1]}}', "bounds must rise"),
        ('{"characters": {"bounds": [1.0], "counts": [0, 0]}}', "2 counts for 2 bins"),
        ("{", "profile.json: "),
    ):
        (tmp_path / PROFILE).write_text(text)
        with pytest.raises(BundleError) as refused:
            read_profile(tmp_path)
        assert words in str(refused.value) and "\n" not in str(refused.value)


def test_values_and_bounds_at_once_are_no_distribution():
    with pytest.raises(ValidationError):
        Distribution(values=["a"], bounds=[1.0], counts=[1])
