"""The baseline of a generator: the completion of the most similar training row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from configs.schema.data import DataSpec
from jobs.data.source import rows
from jobs.measure.answers import Answer, Fitted, input_of
from jobs.measure.grams import STRINGS, WORDS, fit_grams
from serving.inputs import Input, joined


def fit_nearest(data: DataSpec) -> Fitted:
    """The completion of the training row whose prompt is nearest by TF-IDF, which every generator must beat.

    Prompts without words are compared by their characters.
    """
    from sklearn.neighbors import NearestNeighbors

    train = list(rows(data, "train"))
    prompts = [joined(input_of(row)) for row in train]
    grams = fit_grams(prompts, WORDS, 1) or fit_grams(prompts, STRINGS, 1)
    assert grams is not None  # no text is empty
    index = NearestNeighbors(n_neighbors=1, metric="cosine").fit(grams.features_NG)

    def predict(inputs: Sequence[Input]) -> list[Answer]:
        features = grams.vectorizer.transform([joined(each) for each in inputs])
        nearest: list[list[int]] = index.kneighbors(features, return_distance=False).tolist()
        return [Answer(train[row].label) for (row,) in nearest]

    known: Any = grams.features_NG
    texts = sum(len(text.encode()) for text in [*grams.vectorizer.vocabulary_, *(row.label for row in train)])
    return Fitted(predict, texts + _bytes(grams.vectorizer.idf_, known.data, known.indices, known.indptr))


def _bytes(*arrays: Any) -> int:
    return sum(each.nbytes for each in arrays)
