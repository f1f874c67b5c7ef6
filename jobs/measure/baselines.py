"""Baselines made of the training rows in seconds: what any student must beat to be worth its training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jobs.data.source import rows
from jobs.data.spec import DataSpec
from jobs.measure.contenders import Answer, Fitted, joined
from jobs.models.reference import read_reference, read_tokenizer
from serving.bundle import read_description
from serving.inputs import Input

ITERATIONS = 1000  # at most; scikit-learn's 100 end before they converge


def fit_tfidf(data: DataSpec) -> Fitted:
    """TF-IDF of words and word pairs under a linear SVM, scikit-learn's defaults."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.svm import LinearSVC

    train = list(rows(data, "train"))
    vectorizer, classifier = TfidfVectorizer(ngram_range=(1, 2)), LinearSVC()
    features_NV = vectorizer.fit_transform([joined((row.text, row.pair)) for row in train])
    classifier.fit(features_NV, [row.label for row in train])

    def predict(inputs: Sequence[Input]) -> list[Answer]:
        labels = classifier.predict(vectorizer.transform([joined(each) for each in inputs]))
        return [Answer(str(label)) for label in labels]

    words = sum(len(word.encode()) for word in vectorizer.vocabulary_)
    return Fitted(predict, words + _bytes(vectorizer.idf_, classifier.coef_, classifier.intercept_))


def fit_static(data: DataSpec, teacher: Path) -> Fitted:
    """The mean of a text's token embeddings under a logistic regression of standardised features.

    The embeddings are the input table of the reference bundle `teacher`, as it is: a static model in the manner of
    github.com/MinishLab/model2vec. Weights by frequency (Arora et al. 2017) made it worse on banking77. A pair of
    means u, v becomes [|u - v|, u * v] (Tai et al. 2015, arXiv 1503.00075, section 4.2).
    """
    from safetensors import safe_open
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    bundle, name = read_reference(teacher, "python -m jobs.finetune"), embedding_table(teacher)
    assert name is not None
    with safe_open(teacher / bundle.model, framework="numpy") as file:
        table_VH: np.ndarray = file.get_tensor(name)
    tokenizer = read_tokenizer(teacher / bundle.tokenizer)
    tokenizer.no_padding()

    def means(texts: list[str]) -> np.ndarray:
        found_NH = np.zeros((len(texts), table_VH.shape[1]), dtype=np.float32)  # a text without tokens stays 0
        for row, encoding in enumerate(tokenizer.encode_batch(texts, add_special_tokens=False)):
            if encoding.ids:
                found_NH[row] = table_VH[encoding.ids].mean(axis=0)
        return found_NH

    def features(inputs: Sequence[Any]) -> np.ndarray:
        if data.text_pair is None:
            return means(list(inputs))
        first_NH, second_NH = means([first for first, _ in inputs]), means([second for _, second in inputs])
        return np.concatenate([np.abs(first_NH - second_NH), first_NH * second_NH], axis=1)

    train = list(rows(data, "train"))
    scaler, classifier = StandardScaler(), LogisticRegression(max_iter=ITERATIONS)
    features_NF = features([row.text if row.pair is None else (row.text, row.pair) for row in train])
    classifier.fit(scaler.fit_transform(features_NF), [row.label for row in train])
    labels = classifier.classes_.tolist()

    def predict(inputs: Sequence[Input]) -> list[Answer]:
        scores_NC = classifier.predict_proba(scaler.transform(features(inputs)))
        best_N = scores_NC.argmax(axis=1)
        return [Answer(labels[best], float(scores_C[best])) for best, scores_C in zip(best_N, scores_NC, strict=True)]

    arrays = (table_VH, scaler.mean_, scaler.scale_, classifier.coef_, classifier.intercept_)
    return Fitted(predict, len(tokenizer.to_str().encode()) + _bytes(*arrays))


def embedding_table(folder: Path) -> str | None:
    """Name of the input embeddings [V, H] of a reference bundle; None where no one tensor has a row for each token.

    An exported bundle has none.
    """
    from safetensors import safe_open

    bundle = read_description(folder)
    if bundle.runtime != "torch":
        return None
    tokens = json.loads((folder / "config.json").read_bytes()).get("vocab_size")
    with safe_open(folder / bundle.model, framework="numpy") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - no mapping
    found = [name for name, shape in shapes.items() if len(shape) == 2 and shape[0] == tokens]
    return found[0] if len(found) == 1 else None


def fit_nearest(data: DataSpec) -> Fitted:
    """The completion of the training row whose prompt is nearest by TF-IDF: what any generator must beat."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.neighbors import NearestNeighbors

    train = list(rows(data, "train"))
    vectorizer = TfidfVectorizer(ngram_range=(1, 2))
    known = vectorizer.fit_transform([joined((row.text, row.pair)) for row in train])
    index = NearestNeighbors(n_neighbors=1, metric="cosine").fit(known)

    def predict(inputs: Sequence[Input]) -> list[Answer]:
        asked = vectorizer.transform([joined(each) for each in inputs])
        nearest: list[list[int]] = index.kneighbors(asked, return_distance=False).tolist()
        return [Answer(train[row].label) for (row,) in nearest]

    texts = sum(len(text.encode()) for text in [*vectorizer.vocabulary_, *(row.label for row in train)])
    return Fitted(predict, texts + _bytes(vectorizer.idf_, known.data, known.indices, known.indptr))


def _bytes(*arrays: Any) -> int:
    return sum(each.nbytes for each in arrays)
