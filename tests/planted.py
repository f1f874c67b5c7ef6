"""Texts that nobody else writes, as customers would send them: to be looked for afterwards."""

from __future__ import annotations

import random
import string

LETTERS = ("абвгдежзиклмнопрстуфхцчшыэюя", string.ascii_lowercase)
LENGTH = 14


class Planted:
    """Gives one such text after the other, every second one of letters that are not ASCII, and keeps them."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.texts: list[str] = []

    def word(self, ascii_only: bool = False) -> str:
        """A text of one word in lower case, which no tokenizer, column or log changes by itself."""
        letters = LETTERS[1] if ascii_only else LETTERS[len(self.texts) % 2]
        self.texts.append("".join(self._random.choices(letters, k=LENGTH)))
        return self.texts[-1]

    def words(self, number: int) -> list[str]:
        """So many of them."""
        return [self.word() for _ in range(number)]
