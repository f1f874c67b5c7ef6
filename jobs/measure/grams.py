"""TF-IDF of words, or of characters where a script has no spaces, and of strings of characters: parts of baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from serving import units

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

WORDS = {"tokenizer": units.words, "token_pattern": None, "ngram_range": (1, 2)}
STRINGS = {"analyzer": "char_wb", "ngram_range": (1, 4)}
LEAST_ROWS = 2  # that a gram must be in: those of one row are most of the bytes, and say little


class Grams(NamedTuple):
    """A fitted vectorizer, and what it makes of the rows that it was fitted to."""

    vectorizer: TfidfVectorizer
    features_NG: Any  # a sparse matrix


def fit_grams(texts: Sequence[str], options: Mapping[str, Any], fewest: int = LEAST_ROWS) -> Grams | None:
    """The grams in at least `fewest` rows, or all where none is in so many; None where texts have no gram at all."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    for least in (fewest, 1):
        vectorizer = TfidfVectorizer(min_df=least, preprocessor=units.lowered, **options)
        try:
            return Grams(vectorizer, vectorizer.fit_transform(texts))
        except ValueError:  # an empty vocabulary: letters alone are no words
            continue
    return None
