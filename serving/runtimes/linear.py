"""Linear classifiers of words and strings of characters, in numpy alone: scikit-learn's TF-IDF under a linear model.

`vocabulary.json` lists pairs of words and strings of characters; the words are those of the tokenizer. A row of the
array in `model.npy` stands for each of them, in this order: its idf, and its weight in every class; the last row holds
the intercepts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from configs.schema.runtimes import VOCABULARY
from serving import units
from serving.bundle import Bundle, BundleError
from serving.inputs import Row, joined

if TYPE_CHECKING:
    import numpy as np

WORD_PAIRS, CHARACTERS = "word_pairs", "characters"  # of `vocabulary.json`


class LinearModel:
    """The known grams, with their idf and weights."""

    def __init__(
        self, words: Iterable[str], word_pairs: Iterable[str], characters: Iterable[str], rows_GK: np.ndarray, most: int
    ) -> None:
        """`rows_GK`: float32, a row of 1 + C for each gram and one for the intercepts; `most`: words read of a text."""
        self._words: dict[str, int] = {}
        self._characters: dict[str, int] = {}
        for gram in (*words, *word_pairs):
            self._words[gram] = len(self._words)
        for gram in characters:
            self._characters[gram] = len(self._words) + len(self._characters)
        self._longest = max(map(len, self._characters), default=0)
        self._rows_GK, self._most = rows_GK, most

    @property
    def size(self) -> int:
        """Number of known grams."""
        return len(self._words) + len(self._characters)

    def of_texts(self, rows: Sequence[Row]) -> np.ndarray:
        """Scores, float32 [N, C]; both texts of a pair are read as one."""
        import numpy as np

        scores_NC = np.empty((len(rows), self._rows_GK.shape[1] - 1), dtype=np.float32)
        for place, row in enumerate(rows):
            scores_NC[place] = self._of_text(units.lowered(joined(row)))
        return scores_NC

    def _of_text(self, text: str) -> np.ndarray:
        scores_C = self._rows_GK[-1, 1:].astype("float64")
        words, known = units.words(text)[: self._most], self._words.get
        scores_C += self._of_grams(map(known, (*words, *map(" ".join, pairwise(words)))), scores_C)
        known = self._characters.get
        return scores_C + self._of_grams(map(known, strings(text.split()[: self._most], self._longest)), scores_C)

    def _of_grams(self, grams: Iterable[int | None], zeros_C: np.ndarray) -> np.ndarray:
        """The part of the scores by grams of one kind: their TF-IDF, of length 1, times the weights."""
        import numpy as np

        counts = Counter(gram for gram in grams if gram is not None)
        if not counts:
            return np.zeros_like(zeros_C)
        rows_KK = self._rows_GK[list(counts)]
        value_K = np.fromiter(counts.values(), dtype=np.float64, count=len(counts)) * rows_KK[:, 0]
        return value_K @ rows_KK[:, 1:] / np.sqrt(value_K @ value_K)


def strings(words: Iterable[str], longest: int) -> Iterator[str]:
    """All strings of 1 to `longest` characters inside each word and the spaces around it, as `char_wb` makes them."""
    for word in words:
        framed = f" {word} "
        for length in range(1, min(longest, len(framed)) + 1):
            for start in range(len(framed) - length + 1):
                yield framed[start : start + length]


def open_model(folder: Path, bundle: Bundle, threads: int) -> LinearModel:
    """Raises `BundleError` where the files do not fit together. It runs on one thread, whatever `threads` says."""
    import numpy as np

    rows_GK = np.load(folder / bundle.model, allow_pickle=False)
    known = json.loads((folder / bundle.model).with_name(VOCABULARY).read_bytes())
    numbers: dict[str, int] = json.loads((folder / bundle.tokenizer).read_bytes())["model"]["vocab"]
    words = sorted(numbers, key=numbers.__getitem__)[:-1]  # the last is the unknown token
    model = LinearModel(words, known[WORD_PAIRS], known[CHARACTERS], rows_GK, bundle.max_length)
    if rows_GK.dtype != np.float32 or rows_GK.shape != (model.size + 1, len(bundle.labels) + 1):
        raise BundleError(
            f"{folder / bundle.model}: {rows_GK.dtype} {list(rows_GK.shape)}; {model.size} grams and "
            f"{len(bundle.labels)} labels need float32 {[model.size + 1, len(bundle.labels) + 1]}"
        )
    return model
