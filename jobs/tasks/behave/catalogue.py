"""The items that can be recommended: those of the training histories, numbered from the most bought one on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property

from jobs.tasks.behave.rows import History

HEAD = 0.1  # share of the items, those bought most, that count as popular


class Catalogue:
    """Ids of items by number. Of items that score equally the one bought more often stands first: it has the lower
    number."""

    def __init__(self, ids: Sequence[str]) -> None:
        self.ids = tuple(ids)

    @classmethod
    def of(cls, histories: Iterable[History]) -> Catalogue:
        """All items of `histories`, by purchases, then by other events, then by id."""
        bought, seen = Counter[str](), Counter[str]()
        for history in histories:
            seen.update(history.items)
            bought.update(item for index, item in enumerate(history.items) if history.bought(index))
        return cls(sorted(seen, key=lambda item: (-bought[item], -seen[item], item)))

    def __len__(self) -> int:
        return len(self.ids)

    def numbers(self, items: Iterable[str]) -> list[int]:
        """The numbers of the items that are known, in their order; unknown ones are left out."""
        return [number for item in items if (number := self._number.get(item)) is not None]

    @property
    def popular(self) -> int:
        """How many items count as popular; their numbers are lower than this."""
        return max(1, round(HEAD * len(self.ids)))

    @cached_property
    def _number(self) -> dict[str, int]:
        return {item: number for number, item in enumerate(self.ids)}
