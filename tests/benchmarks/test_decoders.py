from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import _decoders
from benchmarks._decoders import STUDENTS, TEACHERS, Decoders, Turns


@pytest.fixture
def decoders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Decoders:
    bleu = dict(zip(TEACHERS, (38.9, 39.6, 40.0), strict=True))
    kept = dict(zip(STUDENTS, (39.0, 38.9, 38.7), strict=True))
    monkeypatch.setattr(Decoders, "teachers", {size: {"validation_bleu": each} for size, each in bleu.items()})
    monkeypatch.setattr(Decoders, "students", {name: {"validation_bleu": each} for name, each in kept.items()})
    monkeypatch.setattr(Decoders, "file", lambda _, name: tmp_path / name)
    return Decoders(tmp_path, tmp_path, ())


def test_the_smallest_teacher_that_is_nearly_as_good_as_the_best_is_chosen(decoders: Decoders):
    assert decoders.teacher == list(TEACHERS)[1]


def test_the_winner_is_the_fastest_student_of_those_that_keep_enough(
    decoders: Decoders, monkeypatch: pytest.MonkeyPatch
):
    first, second, _ = STUDENTS
    speeds = {first: 100.0, second: 180.0}  # the third keeps 97.7 %

    def measured(_: Decoders, contenders: list[_decoders.Contender], runs: int) -> list[dict[str, dict]]:
        assert runs == 1 and [each.name for each in contenders] == [first, second]
        return [{name: {_decoders.ONE: speed} for name, speed in speeds.items()}]

    monkeypatch.setattr(Decoders, "_measured", measured)
    assert decoders.winner == second


def test_a_point_of_turns_has_medians_and_the_ends_of_the_ratios():
    assert Turns((10.0, 30.0, 20.0), (2.0, 3.0, 2.0)).point() == {
        "ours": 20.0,
        "peer": 2.0,
        "ratio": 10.0,
        "least": 5.0,
        "most": 10.0,
    }
