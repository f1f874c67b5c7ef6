"""Two sides in turns in one run: medians, spread, and one JSON line a row."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

Side = Callable[[], float]


def compare(name: str, unit: str, ours: Side, peer: Side, peer_is: str, bar: float, runs: int = 7) -> None:
    """Print how ours compares with `peer_is`, as ratio of what the sides return (more is better); median of `runs`.

    Each run has both, first one first, then the other; a first run of both warms up and is not counted.
    """
    pairs: list[tuple[float, float]] = []
    for turn in range(runs + 1):
        if turn % 2:
            mine, theirs = ours(), peer()
        else:
            theirs, mine = peer(), ours()
        if turn:
            pairs.append((mine, theirs))
    ratios = sorted(mine / theirs for mine, theirs in pairs)
    ratio = statistics.median(ratios)
    print_row(
        name=name,
        ours=round(statistics.median(mine for mine, _ in pairs), 3),
        peer=f"{statistics.median(theirs for _, theirs in pairs):.3f}, {peer_is}",
        unit=unit,
        ratio=round(ratio, 3),
        spread=[round(ratios[0], 3), round(ratios[-1], 3)],
        runs=runs,
        bar=bar,
        holds=ratio >= bar,
    )


def missing(name: str, unit: str, reason: str, bar: float) -> None:
    """Print the row of a comparison that could not be made."""
    print_row(name=name, ours=None, peer=reason, unit=unit, ratio=None, spread=None, runs=0, bar=bar, holds=False)


def print_row(**fields: Any) -> None:
    """One JSON line on stdout."""
    print(json.dumps(fields), flush=True)


def seconds(work: Callable[[], None]) -> float:
    """How long `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
