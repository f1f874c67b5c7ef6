"""Histories as numbers, and what a model learns of them: at the end of every basket, the purchases of the next one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jobs.models.items import BEGIN
from jobs.tasks.behave.catalogue import Catalogue
from jobs.tasks.behave.rows import History
from jobs.tasks.behave.splits import baskets

if TYPE_CHECKING:
    import torch


class Example(NamedTuple):
    """A part of a history that a model sees at once, after `BEGIN`."""

    numbers: np.ndarray  # [L] int64: `BEGIN`, then item + 1 of each event
    positions: np.ndarray  # [L] int64: 0, then the number of each event's basket, counted from 1
    targets: dict[int, np.ndarray]  # by the place at which they are asked for: items that are bought next, each once


def seen(history: History, catalogue: Catalogue, max_length: int) -> Example:
    """The last `max_length` events of a history whose items are known; nothing is asked."""
    events, _ = _numbered(history, catalogue)
    return _example(events[-max_length:], {})


def examples(history: History, catalogue: Catalogue, max_length: int) -> list[Example]:
    """A history in parts of at most `max_length` events, each basket asked for once.

    A part after the first begins half a length before what it is asked, so that all of them know enough.
    """
    events, asked = _numbered(history, catalogue)
    found, start, done = [], 0, -1
    while True:
        stop = start + max_length
        mine = {place - start: wanted for place, wanted in asked.items() if done < place <= stop}
        if mine:
            found.append(_example(events[start:stop], mine))
        if stop >= len(events):
            return found
        done, start = stop, start + max(1, max_length // 2)


def collate(parts: Sequence[Example], length: int | None = None) -> dict[str, torch.Tensor]:
    """Tensors of some examples: input_ids_BL, position_ids_BL, ends_BL, and of the targets of all ends, in their order,
    end_P, target_P and weight_P, of which those of an end add up to 1.

    Of an example without targets the last event is an end."""
    import torch

    length = length or max(len(each.numbers) for each in parts)
    numbers, positions = (np.zeros((len(parts), length), dtype=np.int64) for _ in range(2))
    ends = np.zeros((len(parts), length), dtype=bool)
    wanted: list[np.ndarray] = []  # of each end
    for row, part in enumerate(parts):
        numbers[row, : len(part.numbers)], positions[row, : len(part.numbers)] = part.numbers, part.positions
        asked = part.targets or {len(part.numbers) - 1: np.zeros(0, dtype=np.int64)}
        ends[row, [*asked]] = True
        wanted += [asked[place] for place in sorted(asked)]
    sizes = np.array([len(each) for each in wanted])
    arrays = {
        "input_ids": numbers,
        "position_ids": positions,
        "ends": ends,
        "end": np.repeat(np.arange(len(wanted)), sizes),
        "target": np.concatenate(wanted),
        "weight": np.repeat(1 / np.maximum(1, sizes), sizes).astype(np.float32),
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _numbered(history: History, catalogue: Catalogue) -> tuple[list[tuple[int, int]], dict[int, np.ndarray]]:
    """(item and basket of each event whose item is known, targets by the number of such events before them)."""
    events: list[tuple[int, int]] = []
    asked: dict[int, np.ndarray] = {}
    for basket, (start, stop) in enumerate(baskets(history)):
        bought = [history.items[index] for index in range(start, stop) if history.bought(index)]
        if wanted := list(dict.fromkeys(catalogue.numbers(bought))):
            asked[len(events)] = np.array(wanted, dtype=np.int64)
        events += [(number, basket) for number in catalogue.numbers(history.items[start:stop])]
    return events, asked


def _example(events: Sequence[tuple[int, int]], targets: dict[int, np.ndarray]) -> Example:
    numbers = np.array([BEGIN, *(item + 1 for item, _ in events)], dtype=np.int64)
    changes = [before != after for (_, before), (_, after) in pairwise(events)]
    positions = np.cumsum([0, *([1] if events else []), *changes])
    return Example(numbers, positions, targets)
