"""Two sides in turns in one run: medians, spread, one JSON line a row. A row that misses its bar fails the run."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

Side = Callable[[], float]
Said = TypeVar("Said")

_failed: list[str] = []  # names of this process's rows that missed their bar, or whose measurement is missing


def compare(name: str, unit: str, ours: Side, peer: Side, peer_is: str, bar: float | None, runs: int = 7) -> None:
    """Print how ours compares with `peer_is`, as ratio of what the sides return (more is better); median of `runs`.

    Each run has both, first one first, then the other; a first run of both warms up and is not counted. `bar` is known
    before anything is measured: one that follows from the row's own measurement could not be missed.
    """
    said = in_turns({"peer": peer, "ours": ours}, runs)
    judge(name, unit, said["ours"], said["peer"], peer_is, bar)


def in_turns(sides: Mapping[str, Callable[[], Said]], runs: int) -> dict[str, list[Said]]:
    """What each side says in `runs` turns of all, each begun by the next one; a first turn warms up."""
    said: dict[str, list[Said]] = {name: [] for name in sides}
    names = list(sides)
    for turn in range(runs + 1):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            one = sides[name]()
            if turn:
                said[name].append(one)
    return said


def judge(
    name: str,
    unit: str,
    ours: Sequence[float],
    peer: Sequence[float],
    peer_is: str,
    bar: float | None,
    **also: Any,
) -> None:
    """Print how ours compares with `peer_is`, from what both said in the same turns, with what else is told of them."""
    ratios = sorted(mine / theirs for mine, theirs in zip(ours, peer, strict=True))
    print_row(
        name=name,
        ours=round(statistics.median(ours), 3),
        peer=f"{statistics.median(peer):.3f}, {peer_is}",
        unit=unit,
        ratio=statistics.median(ratios),
        spread=[round(ratios[0], 3), round(ratios[-1], 3)],
        runs=len(ratios),
        bar=bar,
        **also,
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
