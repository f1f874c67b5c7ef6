"""Faults: the first run of each is part of every test run, the others of `make test-faults`, which prints a table."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from _pytest.terminal import TerminalReporter

ROW = "fault"


def fault(row: str, runs: int = 1, slow: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Mark a test as of the table's `row`; with several `runs` it takes a `seed`. A `slow` one never runs elsewhere."""
    seeds = [pytest.param(seed, marks=[pytest.mark.often] if seed else []) for seed in range(runs)]

    def marked(test: Callable[..., None]) -> Callable[..., None]:
        test = pytest.mark.fault(row)(pytest.mark.often(test) if slow else test)
        return pytest.mark.parametrize("seed", seeds)(test) if runs > 1 else test

    return marked


def note(item: pytest.Item) -> None:
    """Let the report of a test say which row of the table it belongs to."""
    if marker := item.get_closest_marker(ROW):
        item.user_properties.append((ROW, marker.args[0]))


def summarise(reporter: TerminalReporter) -> None:
    """Print the table: of each row how many runs passed and failed, and how long they took; then the sums."""
    rows: dict[str, list[float]] = {}
    for outcome in ("passed", "failed", "error"):
        for report in reporter.stats.get(outcome, []):
            for name in (value for key, value in getattr(report, "user_properties", []) if key == ROW):
                row = rows.setdefault(name, [0, 0, 0.0])
                row[outcome != "passed"] += 1
                row[2] += report.duration
    reporter.section("faults")
    for name, (passed, failed, seconds) in rows.items():
        reporter.write_line(f"{name}: {passed:.0f} passed, {failed:.0f} failed, {seconds:.0f} s")
    passed, failed = (sum(row[column] for row in rows.values()) for column in (0, 1))
    reporter.write_line(f"{passed:.0f} passed, {failed:.0f} failed")
