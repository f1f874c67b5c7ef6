"""Histories as numbers, and what a model learns of them: at the end of every basket, the purchases of the next one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jobs.data.batches import NO_TARGET
from jobs.models.items import BEGIN
from jobs.tasks.behave.catalogue import Catalogue
from jobs.tasks.behave.rows import History
from jobs.tasks.behave.splits import baskets

if TYPE_CHECKING:
    import pyarrow
    import torch

ANOTHER, ASKED = 1, 2  # bits of a type: the event begins another basket than that before it; its purchase is asked for


class Numbered(NamedTuple):
    """A history as it is stored: the events whose items are known."""

    ids: np.ndarray  # [E] int32: numbers of items
    types: np.ndarray  # [E] int8: `ANOTHER`, `ASKED`


class Example(NamedTuple):
    """A part of a history that a model sees at once, after `BEGIN`."""

    numbers: np.ndarray  # [L] int64: `BEGIN`, then item + 1 of each event
    positions: np.ndarray  # [L] int64: 0, then the number of each event's basket, counted from 1
    targets: dict[int, np.ndarray]  # by the place at which they are asked for, rising: items bought next, each once


def numbered(history: History, catalogue: Catalogue, asked_from: int = 0) -> Numbered:
    """A history in numbers; what is bought from the event `asked_from` on is asked for."""
    ids, types, last = [], [], None
    for basket, (start, stop) in enumerate(baskets(history)):
        for index in range(start, stop):
            for number in catalogue.numbers([history.items[index]]):
                is_asked = index >= asked_from and history.bought(index)
                ids.append(number)
                types.append(ANOTHER * (basket != last) + ASKED * is_asked)
                last = basket
    return Numbered(np.array(ids, dtype=np.int32), np.array(types, dtype=np.int8))


def table(histories: Sequence[Numbered]) -> pyarrow.Table:
    """The columns that `jobs.data.prepared.Examples` reads, a row a history."""
    import pyarrow

    return pyarrow.table(
        {
            "input_ids": pyarrow.array([each.ids for each in histories], pyarrow.list_(pyarrow.int32())),
            "type_ids": pyarrow.array([each.types for each in histories], pyarrow.list_(pyarrow.int8())),
            "label": pyarrow.array([NO_TARGET] * len(histories), pyarrow.int32()),
        }
    )


def seen(history: History, catalogue: Catalogue, max_length: int) -> Example:
    """The last `max_length` events of a history whose items are known; nothing is asked."""
    ids, types = numbered(history, catalogue)
    return _example(ids[-max_length:], types[-max_length:], {})


def examples(history: Numbered, max_length: int) -> list[Example]:
    """A history in parts of at most `max_length` events, each basket asked for once, in order.

    A part after the first begins half a length before what it is asked, so that all of them know enough.
    """
    (ids, types), asked = history, _asked(history)
    found, start, done = [], 0, -1
    while True:
        stop = start + max_length
        mine = {place - start: wanted for place, wanted in asked.items() if done < place <= stop}
        if mine:
            found.append(_example(ids[start:stop], types[start:stop], mine))
        if stop >= len(ids):
            return found
        done, start = stop, start + max(1, max_length // 2)


def collate(parts: Sequence[Example], length: int = 0, count: int = 1) -> dict[str, torch.Tensor]:
    """Tensors of some examples, padded to `length` or the longest: input_ids_BL, position_ids_BL, ends_BL, weight_B;
    and of the targets of all ends, in their order, end_P, target_P and share_P. The shares of an end add up to 1.

    Of an example without targets the last event is an end. Blank rows of weight 0 without an end fill them up to
    `count`.
    """
    import torch

    shape = max(count, len(parts)), max([length, *(len(each.numbers) for each in parts)])
    numbers, positions = (np.zeros(shape, dtype=np.int64) for _ in range(2))
    ends = np.zeros(shape, dtype=bool)
    wanted: list[np.ndarray] = []  # of each end
    for row, part in enumerate(parts):
        numbers[row, : len(part.numbers)], positions[row, : len(part.numbers)] = part.numbers, part.positions
        asked = part.targets or {len(part.numbers) - 1: np.zeros(0, dtype=np.int64)}
        ends[row, [*asked]] = True
        wanted += asked.values()
    sizes = np.array([len(each) for each in wanted], dtype=np.int64)
    arrays = {
        "input_ids": numbers,
        "position_ids": positions,
        "ends": ends,
        "end": np.repeat(np.arange(len(wanted)), sizes),
        "target": np.concatenate([*wanted, np.zeros(0, dtype=np.int64)]),
        "weight": (np.arange(shape[0]) < len(parts)).astype(np.float32),
        "share": np.repeat(1 / np.maximum(1, sizes), sizes).astype(np.float32),
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _asked(history: Numbered) -> dict[int, np.ndarray]:
    """The items that are asked for, each once in a basket, by the number of events before their basket."""
    asked: dict[int, np.ndarray] = {}
    starts = np.flatnonzero(history.types & ANOTHER)
    for start, stop in pairwise([*starts.tolist(), len(history.ids)]):
        wanted = history.ids[start:stop][(history.types[start:stop] & ASKED) > 0]
        if len(wanted):
            asked[start] = np.array(list(dict.fromkeys(wanted.tolist())), dtype=np.int64)
    return asked


def _example(ids: np.ndarray, types: np.ndarray, targets: dict[int, np.ndarray]) -> Example:
    numbers = np.concatenate([[BEGIN], ids.astype(np.int64) + 1])
    first = 0 if len(types) == 0 or types[0] & ANOTHER else 1  # a part may begin inside a basket
    positions = np.concatenate([[0], first + np.cumsum(types & ANOTHER, dtype=np.int64)])
    return Example(numbers, positions, targets)
