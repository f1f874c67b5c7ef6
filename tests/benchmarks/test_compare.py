from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest

from benchmarks import _compare
from benchmarks._compare import compare, exit_code, missing, print_row


@pytest.fixture(autouse=True)
def nothing_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compare, "_failed", [])


def rows(captured: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in captured.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("ratio", "bar", "code"), [(2.0, 2.0, 0), (1.99996, 2.0, 1), (math.nan, 2.0, 1), (None, 2.0, 1)]
)
def test_a_run_fails_where_a_bar_is_missed_or_its_measurement_is(
    ratio: float | None, bar: float, code: int, capsys: pytest.CaptureFixture[str]
):
    print_row(name="good", ratio=3.0, bar=1.0)
    print_row(name="x", ratio=ratio, bar=bar)
    assert rows(capsys)[1]["holds"] == (code == 0)
    assert exit_code() == code


def test_a_row_without_a_bar_holds_nothing_and_fails_only_where_it_was_not_measured(
    capsys: pytest.CaptureFixture[str],
):
    print_row(name="shown", ratio=0.1)
    assert exit_code() == 0
    missing("absent", "rows/s", "nothing recorded", None)
    assert exit_code() == 1
    assert all("holds" not in row and "bar" not in row for row in rows(capsys))


def test_sides_take_turns_and_the_median_ratio_is_judged(capsys: pytest.CaptureFixture[str]):
    order: list[str] = []

    def side(name: str, value: float) -> float:
        order.append(name)
        return value

    compare("x", "rows/s", lambda: side("ours", 3.0), lambda: side("peer", 2.0), "peer 1.0", 1.6, runs=2)
    assert order == ["peer", "ours", "ours", "peer", "peer", "ours"]
    (row,) = rows(capsys)
    assert (row["ratio"], row["holds"], row["runs"]) == (1.5, False, 2)
    assert exit_code() == 1


@pytest.mark.slow
def test_without_data_every_row_says_so_and_the_run_fails():
    environment = {key: value for key, value in os.environ.items() if key != "SLIMCART_DATA"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.layouts"], capture_output=True, text=True, env=environment, check=False
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found
    assert all((row["holds"], row["ratio"]) == (False, None) for row in found)
    assert all("SLIMCART_DATA is not set" in row["peer"] for row in found)
    assert done.returncode == 1, done.stderr
