from __future__ import annotations

import numpy as np
import pytest

from jobs.training import pace
from jobs.training.pace import Pace


class Clock:
    """Stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(pace, "time", made)
    return made


def test_before_the_first_step_and_in_no_time_the_pace_is_a_number(clock: Clock, capsys: pytest.CaptureFixture[str]):
    pace = Pace("teacher", 1, np.array([3, 4]), steps=2, silent=False)
    assert pace.tokens_per_second == 0
    pace.epoch_done(0, {"train_loss": 0.5, "validation_accuracy": 1.0}, "accuracy")
    clock.now += 10
    assert pace.tokens_per_second == 0
    pace.epoch_done(0, {"train_loss": 0.5, "validation_accuracy": 1.0}, "accuracy")
    shown = "teacher: epoch 1/1: loss 0.5000, validation accuracy 1.0000, 0 tokens/s,"
    assert capsys.readouterr().out.splitlines() == [f"{shown} 0 s to go", f"{shown} 20 s to go"]


def test_tokens_are_those_of_the_rows_and_the_time_to_go_is_that_of_the_steps(
    clock: Clock, capsys: pytest.CaptureFixture[str]
):
    pace = Pace("student", 3, np.array([3, 4, 5]), steps=4, silent=False)
    clock.now += 9
    pace.step(np.array([0, 2]))
    assert capsys.readouterr().out == ""
    clock.now += 1
    pace.step(np.array([1]))
    assert pace.tokens_per_second == 1.2
    assert capsys.readouterr().out == "student: step 2/4, 1 tokens/s, 10 s to go\n"
    clock.now += 1
    pace.step(np.array([], dtype=int))
    assert capsys.readouterr().out == ""


def test_who_is_silent_counts_all_the_same(clock: Clock, capsys: pytest.CaptureFixture[str]):
    pace = Pace("student", 3, np.array([3, 4, 5]), steps=4, silent=True)
    clock.now += 100
    pace.step(np.array([0, 1, 2]))
    pace.epoch_done(0, {}, "accuracy")
    assert pace.tokens_per_second == 0.12
    assert capsys.readouterr().out == ""
