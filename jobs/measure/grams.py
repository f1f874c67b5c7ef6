"""TF-IDF of words or of strings of characters, which baselines are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

WORDS = {"ngram_range": (1, 2)}
STRINGS = {"analyzer": "char_wb", "ngram_range": (1, 4)}  # of languages without spaces these are all there is
LEAST_ROWS = 2  # that a gram must be in: those of one row are most of the bytes, and say little


class Grams(NamedTuple):
    """A fitted vectorizer, and what it makes of the rows that it was fitted to."""

    vectorizer: TfidfVectorizer
    features_NG: Any  # a sparse matrix


def fit_grams(texts: Sequence[str], options: Mapping[str, Any], fewest: int = LEAST_ROWS) -> Grams | None:
    """The grams in at least `fewest` rows, or all where none is in so many; None where texts have no gram at all."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    for least in (fewest, 1):
        vectorizer = TfidfVectorizer(min_df=least, **options)
        try:
            return Grams(vectorizer, vectorizer.fit_transform(texts))
        except ValueError:  # an empty vocabulary: words of one character are none, as all are in some languages
            continue
    return None
