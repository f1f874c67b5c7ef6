"""Faults: the first run of each is part of every test run, the others of `make test-faults`, which prints a table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from _pytest.terminal import TerminalReporter

ROW, SEED = "fault", "seed"


def fault(row: str, runs: int = 1, slow: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Mark a test as of the table's `row`; with several `runs` it takes a `seed`. A `slow` one never runs elsewhere."""
    seeds = [pytest.param(seed, marks=[pytest.mark.often] if seed else []) for seed in range(runs)]

    def marked(test: Callable[..., None]) -> Callable[..., None]:
        test = pytest.mark.fault(row)(pytest.mark.often(test) if slow else test)
        return pytest.mark.parametrize("seed", seeds)(test) if runs > 1 else test

    return marked


def note(item: pytest.Item) -> None:
    """Let the report of a test say which row of the table it belongs to, and its seed."""
    if marker := item.get_closest_marker(ROW):
        item.user_properties.append((ROW, marker.args[0]))
        if isinstance(item, pytest.Function) and SEED in item.fixturenames:
            item.user_properties.append((SEED, item.callspec.params[SEED]))


@dataclass
class Row:
    """Of one kind of fault."""

    passed: int = 0
    failed: int = 0
    seconds: float = 0
    seeds: set[int] = field(default_factory=set)


def summarise(reporter: TerminalReporter) -> None:
    """Print the table: of each row how many runs passed and failed, seeds and time; then the sums."""
    rows: defaultdict[str, Row] = defaultdict(Row)
    for outcome in ("passed", "failed", "error"):
        for report in reporter.stats.get(outcome, []):
            told = dict(getattr(report, "user_properties", []))
            if ROW in told:
                row = rows[told[ROW]]
                row.passed += outcome == "passed"
                row.failed += outcome != "passed"
                row.seconds += report.duration
                if SEED in told:
                    row.seeds.add(told[SEED])
    reporter.section("faults")
    for name, row in rows.items():
        seeds = f", seeds {min(row.seeds)} to {max(row.seeds)}" if row.seeds else ""
        reporter.write_line(f"{name}: {row.passed} passed, {row.failed} failed{seeds}, {row.seconds:.0f} s")
    total = (sum(getattr(row, outcome) for row in rows.values()) for outcome in ("passed", "failed"))
    reporter.write_line("{} passed, {} failed".format(*total))
