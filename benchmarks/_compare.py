"""Two sides in turns in one run: medians, spread, one JSON line a row. A row that misses its bar fails the run."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

Side = Callable[[], float]

_failed: list[str] = []  # names of this process's rows that missed their bar, or whose measurement is missing


def compare(name: str, unit: str, ours: Side, peer: Side, peer_is: str, bar: float | None, runs: int = 7) -> None:
    """Print how ours compares with `peer_is`, as ratio of what the sides return (more is better); median of `runs`.

    Each run has both, first one first, then the other; a first run of both warms up and is not counted. `bar` is known
    before anything is measured: one that follows from the row's own measurement could not be missed.
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
    print_row(
        name=name,
        ours=round(statistics.median(mine for mine, _ in pairs), 3),
        peer=f"{statistics.median(theirs for _, theirs in pairs):.3f}, {peer_is}",
        unit=unit,
        ratio=statistics.median(ratios),
        spread=[round(ratios[0], 3), round(ratios[-1], 3)],
        runs=runs,
        bar=bar,
    )


def missing(name: str, unit: str, reason: str, bar: float | None) -> None:
    """Print the row of a comparison that could not be made."""
    print_row(name=name, ours=None, peer=reason, unit=unit, ratio=None, spread=None, runs=0, bar=bar)


def print_row(*, name: str, ratio: float | None, bar: float | None = None, **fields: Any) -> None:
    """One JSON line on stdout. `holds` says whether `ratio` reaches `bar`; a row without a bar has neither.

    A row without a ratio was not measured, and holds nothing.
    """
    row: dict[str, Any] = {"name": name, **fields, "ratio": None if ratio is None else round(ratio, 4)}
    reached = ratio is not None and math.isfinite(ratio)
    if bar is not None:
        reached = reached and ratio is not None and ratio >= bar
        row |= {"bar": bar, "holds": reached}
    if not reached:
        _failed.append(name)
    print(json.dumps(row), flush=True)


def exit_code() -> int:
    """1 where a row of this process missed its bar, or was not measured; else 0."""
    return int(bool(_failed))


def seconds(work: Callable[[], None]) -> float:
    """How long `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
