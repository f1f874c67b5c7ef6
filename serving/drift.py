"""Whether inputs and answers of a service are distributed as those of the validation rows were.

`PROFILE` of a bundle holds counts of the validation rows, as the very files of the bundle answered them. A service
counts its own inputs into the same bins, and compares them window by window.

- S. Siddiqi, Credit Risk Scorecards, 2006: the population stability index, which says a shift from 0.25 on.
- B. Yurdakul, Statistical Properties of Population Stability Index, 2018: what it comes to by chance.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError, model_validator

from serving.bundle import PROFILE, BundleError

CHARACTERS, LABEL, CONFIDENCE = "characters", "label", "confidence"  # what is watched of an input and its answer
WINDOW = 1000  # inputs at least that are compared at a time
PER_BIN = 20  # and at least so many for each bin
SMALLEST = 0.5  # added to every count, as an empty bin has no logarithm


class Distribution(BaseModel):
    """Counts of values: of labels by `values`, of numbers by `bounds`, which end all bins but the last."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    values: list[str] = []
    bounds: list[float] = []
    counts: list[int] = Field(min_length=1)

    @model_validator(mode="after")
    def counts_fit(self) -> Self:
        bins = len(self.values) or len(self.bounds) + 1
        if (self.values and self.bounds) or len(self.counts) != bins or min(self.counts) < 0 or not sum(self.counts):
            raise ValueError(f"{len(self.counts)} counts for {bins} bins; one count for each, of values or of bounds")
        if any(low >= high for low, high in zip(self.bounds, self.bounds[1:], strict=False)):
            raise ValueError("bounds must rise")
        return self

    def bin_of(self, value: str | float) -> int | None:
        """Index of the bin of a value; None of a label that has none."""
        return self._places.get(value) if isinstance(value, str) else bisect_left(self.bounds, value)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {value: place for place, value in enumerate(self.values)}


class Profile(RootModel[dict[str, Distribution]]):
    """Distributions by what was counted: `CHARACTERS`, `LABEL`, `CONFIDENCE`."""


def read_profile(folder: Path) -> Profile | None:
    """The profile in a bundle's folder; None where it has none. Raises `BundleError`."""
    path = folder / PROFILE
    try:
        return Profile.model_validate_json(path.read_bytes()) if path.exists() else None
    except ValidationError as error:
        first = error.errors()[0]
        raise BundleError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def stability(expected: Sequence[int], seen: Sequence[int]) -> float:
    """Population stability index of counts in the same bins, less what chance makes of it.

    It is the sum of (q - p) ln(q / p), where p and q are the shares of a bin. Of two samples of one distribution, of M
    and N, that is (B - 1)(1/M + 1/N) on average.
    """
    bins, known, new = len(expected), sum(expected), sum(seen)
    index = 0.0
    for before, now in zip(expected, seen, strict=True):
        p = (before + SMALLEST) / (known + SMALLEST * bins)
        q = (now + SMALLEST) / (new + SMALLEST * bins)
        index += (q - p) * math.log(q / p)
    return index - (bins - 1) * (1 / known + 1 / new)


class Window:
    """Counts values until there are enough of them, tells their stability, and begins anew."""

    def __init__(self, expected: Distribution, tell: Callable[[float], None]) -> None:
        self._expected, self._tell = expected, tell
        self._size = max(WINDOW, PER_BIN * len(expected.counts))
        self._empty()

    def _empty(self) -> None:
        self._counts, self._left = [0] * len(self._expected.counts), self._size

    def add(self, value: str | float) -> None:
        """Count a value; a label without a bin of its own is left out."""
        if (place := self._expected.bin_of(value)) is None:
            return
        self._counts[place] += 1
        self._left -= 1
        if not self._left:
            self._tell(stability(self._expected.counts, self._counts))
            self._empty()


def windows(profile: Profile | None, tell: Callable[[str, float], None]) -> Mapping[str, Window]:
    """A window for each distribution of a profile; `tell` gets its name and its stability."""

    def of(name: str) -> Callable[[float], None]:
        return lambda index: tell(name, index)

    return {name: Window(each, of(name)) for name, each in profile.root.items()} if profile else {}
