from __future__ import annotations

import csv
import io
import math

import numpy as np
import pytest

from configs.loader import UsageError
from jobs.measure.answers import Answer
from jobs.measure.differences import (
    LEAST_ROWS,
    MISSING,
    MOST_VALUES,
    OTHERS,
    WORST,
    Difference,
    agreement,
    as_csv,
    by_value,
    expected_calibration_error,
    grouped,
    right,
    summary,
    worst,
)


def test_agreement_is_the_share_of_rows_with_the_same_answer_right_or_wrong():
    assert agreement(["a", "b", "c", "a"], ["a", "b", "a", "c"]) == 0.5


def test_the_calibration_error_of_two_bins_by_hand():
    """Up to 0.5: mean score 0.3, one of two right. Above: mean score 0.8, one of three right."""
    scores, correct = [0.2, 0.4, 0.7, 0.8, 0.9], [True, False, False, True, False]
    expected = 2 / 5 * abs(1 / 2 - 0.3) + 3 / 5 * abs(1 / 3 - 0.8)
    assert expected_calibration_error(scores, correct, bins=2) == pytest.approx(expected)


def test_a_score_on_an_edge_belongs_to_the_bin_below():
    """0.5 and 0.5 + a little are in bins of their own; in one bin, their errors of opposite sign would cancel."""
    assert expected_calibration_error([0.5, 0.5 + 1e-9], [True, False], bins=2) == pytest.approx(0.5)
    assert expected_calibration_error([0.5, 0.5 - 1e-9], [True, False], bins=2) == pytest.approx(0, abs=1e-6)
    assert expected_calibration_error([0.0, 1.0], [False, True]) == 0.0


def test_scores_drawn_as_they_say_have_next_to_no_calibration_error():
    chance = np.random.default_rng(0)
    scores = chance.uniform(size=100_000)
    honest = chance.uniform(size=100_000) < scores
    assert expected_calibration_error(scores.tolist(), honest.tolist()) < 0.01
    assert expected_calibration_error(scores.tolist(), (~honest).tolist()) == pytest.approx(0.5, abs=0.01)


def test_the_calibration_error_is_guos_sum_over_fifteen_bins():
    chance = np.random.default_rng(1)
    scores, correct = chance.uniform(size=500), chance.uniform(size=500) < 0.6
    expected = 0.0
    for m in range(1, 16):
        inside = (scores > (m - 1) / 15) & (scores <= m / 15)
        if inside.any():
            expected += inside.sum() / 500 * abs(correct[inside].mean() - scores[inside].mean())
    assert expected_calibration_error(scores.tolist(), correct.tolist()) == pytest.approx(expected)


def test_a_summary_says_what_the_answers_can_say():
    labels = ["a", "b"]
    teacher = [Answer("a", 1.0), Answer("b", 1.0)]
    assert summary(teacher, labels, teacher) == {"ece": 0.0}
    assert summary([Answer("a", 0.5), Answer("a", 0.5)], labels, teacher) == {"agreement": 0.5, "ece": 0.0}
    assert summary([Answer("b"), Answer("b")], labels, teacher) == {"agreement": 0.5}
    assert summary([Answer("b")], ["a"], None) == {}


def test_accuracy_by_value_counts_the_rows_of_each_and_puts_the_worst_first():
    labels = ["a", "a", "b", "b", "b", "c"]
    teacher = right([Answer(each) for each in "aabbac"], labels)
    winner = right([Answer(each) for each in "aabaac"], labels)
    assert by_value("class", labels, winner, teacher) == [
        Difference("class", "b", 3, 2 / 3, 1 / 3),
        Difference("class", "a", 2, 1.0, 1.0),
        Difference("class", "c", 1, 1.0, 1.0),
    ]
    alone = by_value("class", labels, winner, None)
    assert [(each.value, each.teacher, each.difference) for each in alone] == [(v, None, None) for v in "bac"]


def test_the_worst_have_enough_rows_and_a_winner_that_is_behind():
    few = Difference("class", "few", LEAST_ROWS - 1, 1.0, 0.0)
    enough = Difference("class", "enough", LEAST_ROWS, 1.0, 0.0)
    assert worst([few, enough]) == [enough]
    ahead = Difference("class", "ahead", 100, 0.5, 0.9)
    same = Difference("class", "same", 100, 0.5, 0.5)
    behind = [Difference("channel", str(n), 100, 0.9, 0.9 - n / 100) for n in range(1, WORST + 3)]
    assert worst([few, ahead, same, *behind]) == behind[::-1][:WORST]
    assert worst([few, ahead, same, Difference("class", "alone", 100, None, 0.0)]) == []


def test_few_values_are_groups_as_they_are():
    assert grouped("rating", ["5", "1", "", "5"]) == ["5", "1", MISSING, "5"]


def test_of_many_values_the_frequent_ones_stay_and_the_others_are_one_group():
    frequent = [f"shop {n}" for n in range(MOST_VALUES)] * 3
    rare = [f"other {n}" for n in range(20)]
    assert grouped("shop", [*frequent, *rare, ""]) == [*frequent, *[OTHERS] * 20, MISSING]


def test_many_numbers_are_grouped_by_quartile():
    values = [str(n) for n in range(101)]
    found = grouped("price", [*values, ""])
    assert found[-1] == MISSING
    assert {name: found.count(name) for name in dict.fromkeys(found[:-1])} == {
        "up to 25": 26,
        "over 25 to 50": 25,
        "over 50 to 75": 25,
        "over 75": 25,
    }


def test_quartiles_that_fall_together_are_one_edge():
    values = ["0"] * 300 + [f"{n}.5" for n in range(60)]
    found = grouped("returns", values)
    assert {name: found.count(name) for name in dict.fromkeys(found)} == {"up to 0": 300, "over 0": 60}


@pytest.mark.parametrize("odd", ["nan", "inf", "12b"])
def test_a_column_with_one_value_that_is_no_number_is_of_texts(odd: str):
    values = [str(n) for n in range(MOST_VALUES + 1)] * 3 + [odd]
    assert grouped("code", values).count(OTHERS) == 3 + 1


def test_a_column_whose_values_hardly_repeat_is_refused_without_naming_one():
    with pytest.raises(UsageError, match=r"data\.slices: 'mail': 60 different values in 60 rows look like ids") as info:
        grouped("mail", [f"a{n}@example.com" for n in range(60)])
    assert "@" not in str(info.value)
    with pytest.raises(UsageError, match="40 different values in 40 rows look like ids"):
        grouped("mail", [f"a{n}@example.com" for n in range(40)])
    assert set(grouped("price", [str(n) for n in range(40)])) == {
        "up to 9.75",
        "over 9.75 to 19.5",
        "over 19.5 to 29.25",
        "over 29.25",
    }
    assert grouped("shop", ["a", "b", "c"]) == ["a", "b", "c"]  # of so few rows there is nothing to tell


def test_the_csv_holds_every_difference_in_shares():
    found = [Difference("class", 'say "hi", you', 40, 0.95, 0.9), Difference("channel", "phone", 3, None, 1.0)]
    head, first, second = csv.reader(io.StringIO(as_csv(found)))
    assert head == ["slice", "value", "rows", "teacher", "winner", "difference"]
    assert first[:3] == ["class", 'say "hi", you', "40"]
    assert [float(each) for each in first[3:]] == pytest.approx([0.95, 0.9, -0.05])
    assert second == ["channel", "phone", "3", "", "1.000000", ""]
    assert not math.isnan(float(first[-1]))
