"""The baseline of a generator: the completion of the most similar training row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from configs.schema.data import DataSpec
from jobs.data.source import rows
from jobs.measure.answers import Answer, Fitted, input_of
from jobs.measure.grams import STRINGS, WORDS, Grams, fit_grams
from serving.inputs import Input, joined


def fit_nearest(data: DataSpec) -> Fitted:
    """The completion of the training row whose prompt is nearest by TF-IDF, which every generator must beat.

    Prompts without a known word are compared by their strings of characters, where training rows have such prompts.
    """
    import numpy as np
    from sklearn.neighbors import NearestNeighbors

    train = list(rows(data, "train"))
    prompts = [joined(input_of(row)) for row in train]
    kinds = [grams for grams in (fit_grams(prompts, WORDS, 1),) if grams]
    if not kinds or not _known_N(kinds[0].features_NG).all():
        kinds += [grams for grams in (fit_grams(prompts, STRINGS, 1),) if grams]
    indices = [NearestNeighbors(n_neighbors=1, metric="cosine").fit(grams.features_NG) for grams in kinds]

    def predict(inputs: Sequence[Input]) -> list[Answer]:
        texts = [joined(each) for each in inputs]
        row_N, left_N = np.zeros(len(texts), int), np.ones(len(texts), bool)
        for grams, index in zip(kinds, indices, strict=True):
            features_NG: Any = grams.vectorizer.transform(texts)
            asked_N = left_N if grams is kinds[-1] else left_N & _known_N(features_NG)
            if asked_N.any():
                row_N[asked_N] = index.kneighbors(features_NG[asked_N], return_distance=False)[:, 0]
            left_N = left_N & ~asked_N
        return [Answer(train[row].label) for row in row_N.tolist()]

    return Fitted(predict, sum(len(row.label.encode()) for row in train) + sum(map(_bytes, kinds)))


def _known_N(features_NG: Any) -> Any:
    """[N] bool: whether a text has a known gram."""
    return features_NG.getnnz(axis=1) > 0


def _bytes(grams: Grams) -> int:
    known = grams.features_NG
    arrays = (grams.vectorizer.idf_, known.data, known.indices, known.indptr)
    return sum(len(text.encode()) for text in grams.vectorizer.vocabulary_) + sum(each.nbytes for each in arrays)
