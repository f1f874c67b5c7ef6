"""New rows out of given ones, by operations on words. A teacher has to say their class, if they have any.

    for operation, (text, pair) in augmented(given, known, PoolSpec(rows=20_000), mask="[MASK]", seed=0): ...

A word is all that stands between spaces, and a character where the script has none (`serving.units`). The label of a
row need not survive an operation, so operations may be strong.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.random import Generator

from configs.schema.data import PoolSpec
from serving import units

Inputs = tuple[str, str | None]  # a text, and the second of a pair
VISITS = 10  # to every given row without a new one, after which no more are expected
FIELD = re.compile(r"[^:]+: .+", re.DOTALL)
BETWEEN_FIELDS = "; "


def augmented(
    given: Sequence[Inputs], known: Iterable[Inputs], spec: PoolSpec, mask: str | None, seed: int
) -> Iterator[tuple[str, Inputs]]:
    """(operation, row) of `spec.rows` rows that are neither in `known` nor equal to one another.

    The given rows take turns, in an order drawn anew for each round. Fewer rows come where no more can be made; a
    smaller `spec.rows` gives the first of them. `mask`: the tokenizer's mask token as it stands in a text.
    """
    chance = np.random.default_rng(seed)
    drop = functools.partial(drop_words, share=spec.changed, chance=chance)
    hide = functools.partial(mask_words, share=spec.changed, mask=mask or "", chance=chance)
    swap = functools.partial(swap_words, share=spec.changed, chance=chance)
    operations: dict[str, Callable[[Inputs, Inputs], Inputs | None]] = {
        "drop_words": lambda row, _: _on_parts(row, units.pieces, units.together, drop),
        "mask_words": lambda row, _: _on_parts(row, units.pieces, units.together, hide),
        "swap_words": lambda row, _: _on_parts(row, units.pieces, units.together, swap),
        "mix_rows": lambda row, other: mix_rows(row, other, chance),
        "drop_fields": lambda row, _: _on_parts(row, fields, BETWEEN_FIELDS.join, drop),
    }
    names, shares = list(spec.shares), np.array(list(spec.shares.values()))
    shares = shares / shares.sum()
    seen = set(map(normal, known))
    count, idle = 0, 0
    while count < spec.rows:
        order = chance.permutation(len(given))
        for row, other in zip(order, np.roll(order, 1), strict=True):
            name = names[chance.choice(len(names), p=shares)]
            new = operations[name](given[row], given[other])
            if new is None or normal(new) in seen:
                idle += 1
                if idle == VISITS * len(given):
                    return
                continue
            seen.add(normal(new))
            count, idle = count + 1, 0
            yield name, new
            if count == spec.rows:
                return


def normal(row: Inputs) -> Inputs:
    """A row with single spaces: equal for rows that differ in their spaces alone."""
    text, pair = row
    return " ".join(text.split()), None if pair is None else " ".join(pair.split())


def _on_parts(
    row: Inputs,
    split: Callable[[str], list[str]],
    join: Callable[[list[str]], str],
    change: Callable[[list[str]], list[str]],
) -> Inputs | None:
    """The row with the parts changed in each text that has several; None where no text has several."""
    parts = [split(text or "") for text in row]
    if max(map(len, parts)) < 2:
        return None
    text, pair = (join(change(each)) if len(each) > 1 else text for each, text in zip(parts, row, strict=True))
    return text or "", pair


def mix_rows(row: Inputs, other: Inputs, chance: Generator) -> Inputs:
    """The texts mixed (`mix_words`); a pair takes the first text of one row and the second of the other."""
    if row[1] is not None:
        return row[0], other[1]
    return units.together(mix_words(units.pieces(row[0]), units.pieces(other[0]), chance)), None


def drop_words(words: Sequence[str], share: float, chance: Generator) -> list[str]:
    """Leave out each word with probability `share`, at least one and not all.

    Word dropout, Iyyer et al. 2015 (aclanthology.org/P15-1162); random deletion of EDA, Wei and Zou 2019 (arXiv
    1901.11196).
    """
    gone = set(_places(len(words), share, len(words) - 1, chance))
    return [word for place, word in enumerate(words) if place not in gone]


def mask_words(words: Sequence[str], share: float, mask: str, chance: Generator) -> list[str]:
    """Replace each word by `mask` with probability `share`, at least one and not all.

    Tang et al. 2019, arXiv 1903.12136.
    """
    hidden = set(_places(len(words), share, len(words) - 1, chance))
    return [mask if place in hidden else word for place, word in enumerate(words)]


def swap_words(words: Sequence[str], share: float, chance: Generator) -> list[str]:
    """Swap each word but the last with the next, from left to right, with probability `share`, at least one.

    EDA's random swap, of neighbours: Artetxe et al. 2018 (arXiv 1710.11041).
    """
    swapped = list(words)
    for place in _places(len(words) - 1, share, len(words), chance):
        swapped[place], swapped[place + 1] = swapped[place + 1], swapped[place]
    return swapped


def mix_words(first: Sequence[str], second: Sequence[str], chance: Generator) -> list[str]:
    """The beginning of one text and the end of another, cut at the same share of both; at least a word of each.

    Instance crossover, Luque 2019 (arXiv 1909.11241), cut anywhere and across classes.
    """
    cut = chance.random()
    return [*first[: 1 + int(cut * (len(first) - 1))], *second[-1 - int((1 - cut) * (len(second) - 1)) :]]


def fields(text: str) -> list[str]:
    """The parts of a text `name: value; name: value`; empty for a text of another form."""
    parts = text.split(BETWEEN_FIELDS)
    return parts if len(parts) > 1 and all(map(FIELD.fullmatch, parts)) else []


def _places(count: int, share: float, most: int, chance: Generator) -> list[int]:
    """Places out of `count`, in order, each with probability `share`: at least one and at most `most`."""
    chosen = np.flatnonzero(chance.random(count) < share)
    if not len(chosen):
        chosen = chance.integers(count, size=1)
    return sorted(chance.permutation(chosen)[:most].tolist())
