from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from jobs.tasks.behave.instants import seconds_of

NOON = 1_796_126_400.0  # 2026-12-01 12:00 in UTC


@pytest.mark.parametrize(
    "value",
    [
        "2026-12-01 12:00:00",
        "2026-12-01T12:00Z",
        " 2026-12-01T13:00:00+01:00 ",
        1_796_126_400,
        1_796_126_400.0,
        Decimal(1_796_126_400),
        "1796126400",
        "1796126400.0",
        datetime(2026, 12, 1, 12),  # noqa: DTZ001 - as Parquet gives it
        datetime(2026, 12, 1, 12, tzinfo=UTC),
        datetime(2026, 12, 1, 20, tzinfo=timezone(timedelta(hours=8))),
    ],
)
def test_one_time_is_one_number_however_it_is_written(value: Any):
    assert seconds_of(value) == NOON


def test_a_day_is_its_first_second():
    assert seconds_of("2026-12-01") == seconds_of(date(2026, 12, 1)) == NOON - 12 * 3600


def test_a_log_may_count_its_events_in_place_of_times():
    assert [seconds_of(value) for value in (0, 1, "2", 2.5)] == [0.0, 1.0, 2.0, 2.5]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("01/12/2026", "'01/12/2026' is no time; write it as 2026-11-30, "),
        ("", "'' is no time"),
        ("what a customer wrote, which is longer than any time", "a text of 52 characters is no time"),
        (1_796_126_400_000, "1796126400000 is after the year 3000 in seconds since 1970; divide milliseconds by 1000"),
        ("1796126400000", "1796126400000 is after the year 3000"),
        (20261201, "20261201 may be a day or seconds since 1970; write days as 2026-12-01"),
        ("20261201", "20261201 may be a day"),
        (float("nan"), "a number that is not finite"),
        (True, "a bool is no time"),
        ([1], "a list is no time"),
    ],
)
def test_what_is_no_time_is_refused_with_what_would_work(value: Any, said: str):
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the message is compared below
        seconds_of(value)
    assert str(refused.value).startswith(said)
