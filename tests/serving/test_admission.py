"""Which keys hold, and what is left of their limits, by a clock that the test sets."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from serving.admission import Clock, Keys, Spent
from serving.keys import add, read
from serving.service import Refused


class Set:
    """A clock that a test sets."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.clock = Clock(lambda: self.now, lambda: self.now)


def stored(path: Path, **limits: Any) -> Any:
    add(path, "one", **limits)
    return read(path).keys[-1]


def test_a_minute_has_as_many_requests_as_the_rate_says_and_they_come_back_evenly(tmp_path: Path):
    key, time = stored(tmp_path / "keys.json", rate=60), Set(1e9)
    spent = Spent(60.0, time.now)
    assert [spent.take(key, time.clock) for _ in range(60)] == [0.0] * 60
    assert spent.take(key, time.clock) == pytest.approx(1)
    time.now += 0.25
    assert spent.take(key, time.clock) == pytest.approx(0.75)  # what was refused cost nothing
    time.now += 0.75
    assert [bool(spent.take(key, time.clock)) for _ in range(2)] == [False, True]
    time.now += 3600
    assert [spent.take(key, time.clock) for _ in range(60)] == [0.0] * 60 and spent.take(key, time.clock)


def test_a_day_ends_at_midnight_of_utc(tmp_path: Path):
    key = stored(tmp_path / "keys.json", daily=2)
    time = Set(datetime(2026, 12, 1, 23, 59, 50, tzinfo=UTC).timestamp())
    spent = Spent(0.0, time.now)
    assert [spent.take(key, time.clock) for _ in range(3)] == [0.0, 0.0, 10.0]
    time.now += 10
    assert [bool(spent.take(key, time.clock)) for _ in range(3)] == [False, False, True]


def test_a_broken_file_keeps_the_last_good_keys_and_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "keys.json"
    key = add(path, "one")
    whole, keys = path.read_bytes(), Keys(path)
    path.write_bytes(b"{")
    for _ in range(3):
        assert keys.admit(key.encode(), "intent").name == "one"
    path.unlink()
    for _ in range(3):
        assert keys.admit(key.encode(), "intent").name == "one"
    assert [record.getMessage().count("\n") for record in caplog.records] == [0, 0]
    assert "keys that were read before still hold: 1" in caplog.records[0].getMessage()
    assert "no such file" in caplog.records[1].getMessage()
    path.write_bytes(whole)
    another = add(path, "two")
    assert keys.admit(another.encode(), None).name == "two"
    assert len(caplog.records) == 2


def test_a_file_that_was_never_read_lets_nobody_in(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    keys = Keys(tmp_path / "keys.json")
    with pytest.raises(Refused) as refused:
        keys.admit(b"sc_" + b"0" * 77, None)
    assert refused.value.status_code == 401 and len(caplog.records) == 1
    key = add(tmp_path / "keys.json", "one")
    assert keys.admit(key.encode(), None).name == "one"
