"""Smaller models of next items that begin with what their teacher knows."""

from __future__ import annotations

import torch

from configs.loader import UsageError
from jobs.models.conv import principal
from jobs.models.items import ItemSizes, NextItems
from jobs.models.student import choose_layers


@torch.no_grad()
def item_student(teacher: NextItems, layers: int | list[int], hidden: int | None = None) -> NextItems:
    """A student with some `layers` of the teacher, evenly spread where they are a number; all else is the teacher's.

    With a smaller `hidden` it has the teacher's item vectors on their principal axes, and the rest is new. Raises
    `UsageError` where the teacher cannot have it.
    """
    chosen = choose_layers(layers, teacher.sizes.layers)
    sizes = teacher.sizes._replace(layers=len(chosen))
    if hidden is None or hidden == sizes.hidden:
        return _of_layers(teacher, sizes, chosen)
    _check_hidden(hidden, sizes)
    student = NextItems(sizes._replace(hidden=hidden))
    student.items.weight.copy_(principal(teacher.items.weight, hidden) * hidden**-0.5)
    for mine, known in ((student.bias, teacher.bias), (student.age, teacher.age)):
        mine.copy_(known)
    return student


def _of_layers(teacher: NextItems, sizes: ItemSizes, chosen: list[int]) -> NextItems:
    student = NextItems(sizes)
    kept = {name: each for name, each in teacher.state_dict().items() if not name.startswith("layers.")}
    student.load_state_dict(kept, strict=False)
    for layer, number in zip(student.layers, chosen, strict=True):
        layer.load_state_dict(teacher.layers[number].state_dict())
    return student


def _check_hidden(hidden: int, sizes: ItemSizes) -> None:
    if hidden > sizes.hidden:
        raise UsageError(f"student.hidden: {hidden}: the teacher has {sizes.hidden}; a student is no wider")
    if hidden % sizes.heads:
        raise UsageError(f"student.hidden: {hidden}: no multiple of the teacher's {sizes.heads} heads")
