"""The number of heads and feed-forward units that each layer of an encoder keeps, and the layers that stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from configs.loader import UsageError
from jobs.compression.importance import Importance
from jobs.compression.layer_times import LayerTimes
from jobs.models.layers import LayerSize

UNITS = 16  # numbers in a vector register: feed-forward units are chosen in multiples of it
BUCKETS = 4000  # equal steps of time into which a limit is divided
Kept = dict[int, LayerSize]  # sizes of the layers that stay, by number


def check(asked: Mapping[str, int | float], there: Mapping[str, int], step: str) -> None:
    """Raise `UsageError`, naming `step`, where more is asked for than there is."""
    for name, part in asked.items():
        if part > there[name]:
            raise UsageError(f"compression.{step}.{name}: {part}: the model has {there[name]}; give at most that")


def part_of(asked: int | float, count: int) -> int:
    """A share of `count`, at least 1, or a number, at most `count`."""
    return max(1, round(asked * count)) if isinstance(asked, float) else min(asked, count)


def uniform(asked: Mapping[str, int | float], sizes: Sequence[LayerSize], importance: Importance) -> Kept:
    """The given number or share of heads and units in each layer, and the layers whose parts matter most."""
    count = part_of(asked.get("layers", len(sizes)), len(sizes))
    kept: Kept = {}
    for number in sorted(np.argsort(-np.array(importance.layers), kind="stable")[:count].tolist()):
        size = sizes[number]
        heads = part_of(asked.get("heads", size.heads), size.heads)
        units = part_of(asked.get("feed_forward", size.feed_forward), size.feed_forward)
        kept[number] = size._replace(heads=heads, feed_forward=units)
    return kept


def options(size: LayerSize) -> list[LayerSize]:
    """The sizes that a layer could keep, the smallest first."""
    widths = [*range(UNITS, size.feed_forward, UNITS), size.feed_forward]
    return [size._replace(heads=heads, feed_forward=wide) for heads in range(1, size.heads + 1) for wide in widths]


def under(limit_ms: float, sizes: Sequence[LayerSize], importance: Importance, times: LayerTimes) -> Kept | None:
    """The sizes that lose the least importance within `limit_ms`; None where no size is so fast.

    A layer loses the least important of its heads and units, or all of them if it is left out.
    """
    able, lost, ms = [options(size) for size in sizes], [], []
    for sizes_K, heads_A, units_F in zip(able, importance.heads, importance.units, strict=True):
        of_heads, of_units = _without_first(heads_A), _without_first(units_F)
        losses = [of_heads[each.heads] + of_units[each.feed_forward] for each in sizes_K]
        lost.append(np.array([*losses, of_heads[0] + of_units[0]]))
        ms.append(np.array([*map(times.layer, sizes_K), 0.0]))
    room = limit_ms - times.rest
    chosen = cheapest(lost, ms, room) if room > 0 else None
    if chosen is None:
        return None
    stays = {number: option for number, option in enumerate(chosen) if option < len(able[number])}
    return {number: able[number][option] for number, option in stays.items()} or None


def lost_by(kept: Kept, importance: Importance) -> float:
    """The share of the importance of all heads and units that is lost."""
    lost = 0.0
    for number, (heads_A, units_F) in enumerate(zip(importance.heads, importance.units, strict=True)):
        size = kept.get(number, LayerSize(0, 0, 0))
        lost += float(_without_first(heads_A)[size.heads] + _without_first(units_F)[size.feed_forward])
    return lost / max(sum(importance.layers), 1e-30)


def cheapest(
    lost: Sequence[np.ndarray], ms: Sequence[np.ndarray], limit: float, buckets: int = BUCKETS
) -> list[int] | None:
    """One option for each layer, with the least sum of `lost` among choices whose `ms` add up to at most `limit`.

    A multiple-choice knapsack by dynamic programming over time (as SPDY, Frantar and Alistarh 2022, arXiv 2201.13096),
    in equal steps rounded up: the limit holds, and the loss is least up to that rounding. None where no choice is
    inside the limit.
    """
    best_T = np.zeros(buckets + 1)  # least loss of the layers so far in at most T steps
    steps, taken = [np.ceil(each / limit * buckets - 1e-9).astype(int) for each in ms], []
    for lost_K, steps_K in zip(lost, steps, strict=True):
        next_T, option_T = np.full(buckets + 1, np.inf), np.zeros(buckets + 1, dtype=int)
        for option in np.flatnonzero(steps_K <= buckets).tolist():
            step = int(steps_K[option])
            with_it_T = best_T[: buckets + 1 - step] + lost_K[option]
            better = with_it_T < next_T[step:]
            next_T[step:][better], option_T[step:][better] = with_it_T[better], option
        best_T = next_T
        taken.append(option_T)
    if not np.isfinite(best_T[-1]):
        return None
    chosen, left = [], buckets
    for option_T, steps_K in zip(reversed(taken), reversed(steps), strict=True):
        chosen.append(int(option_T[left]))
        left -= int(steps_K[chosen[-1]])
    return chosen[::-1]


def _without_first(importance: Tensor) -> np.ndarray:
    """The importance lost where the k most important parts stay, for k from 0 to all."""
    total = importance.sort(descending=True).values.double().cumsum(0).numpy()
    return total[-1] - np.concatenate([[0.0], total])
