from __future__ import annotations

import threading

import pytest

from configs import waiting


class Clock:
    """Stands for the end of a wait: notes for how long it is asked to wait, and is over after so many times."""

    def __init__(self, times: int) -> None:
        self.left, self.pauses = times, list[float]()

    def __call__(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        self.left -= 1
        return self.left < 0


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name == waiting.__name__]


def test_a_wait_is_told_after_ten_seconds_and_then_once_a_minute(caplog: pytest.LogCaptureFixture):
    clock, holders = Clock(3), iter(["job a", "job a", "job b"])
    waiting.tell(lambda: f"waiting for 2 cores: {next(holders)} holds them", clock)
    assert clock.pauses == [10, 60, 60, 60]
    assert lines(caplog) == [f"waiting for 2 cores: {job} holds them" for job in ("job a", "job a", "job b")]


def test_a_wait_that_is_over_before_says_nothing(caplog: pytest.LogCaptureFixture):
    waiting.tell(lambda: "waiting", Clock(0))
    assert not lines(caplog)


def test_what_is_not_waited_for_yet_is_asked_again_and_told_when_it_is(caplog: pytest.LogCaptureFixture):
    clock, answers = Clock(4), iter([None, None, "waiting for 1 core", None])
    waiting.tell(lambda: next(answers), clock)
    assert clock.pauses == [10, 10, 10, 60, 10]
    assert lines(caplog) == ["waiting for 1 core"]


def test_a_reason_of_several_lines_is_one(caplog: pytest.LogCaptureFixture):
    waiting.tell(lambda: "waiting for it:\n  no replica\n", Clock(1))
    assert lines(caplog) == ["waiting for it: no replica"]


def test_the_block_goes_on_meanwhile_and_ends_the_wait(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(waiting, "FIRST_SECONDS", 0.0)
    asked = threading.Event()

    speakers = list[threading.Thread]()

    def reason() -> None:
        speakers.append(threading.current_thread())
        asked.set()

    def breaks() -> None:
        with waiting.waiting(reason):
            assert asked.wait(60)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        breaks()
    speakers[0].join(60)
    assert not speakers[0].is_alive()
