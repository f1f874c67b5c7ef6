"""What can be measured side by side: an exported bundle, an eager torch model, a baseline without one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

from configs.loader import Spec
from jobs.data.source import rows
from jobs.data.spec import DataSpec
from serving.bundle import read_description
from serving.runtime import Input

Text = tuple[str, str | None]


class Contender(Spec):
    """One system under measurement."""

    name: str
    kind: Literal["bundle", "reference", "linear", "nearest"]
    folder: str | None = None


class Predictor(Protocol):
    """Inputs in, label names or generated texts out, in order."""

    def __call__(self, inputs: Sequence[Input]) -> list[str]: ...


def load(contender: Contender, data: DataSpec, threads: int) -> Predictor:
    """A ready predictor that uses `threads` threads."""
    if contender.kind == "linear":
        return fit_linear(data)
    if contender.kind == "nearest":
        return fit_nearest(data)
    assert contender.folder is not None
    if contender.kind == "bundle":
        from serving.runtime import load_bundle

        classifier = load_bundle(Path(contender.folder), threads)
    else:
        from jobs.measure.reference import load_generator, load_reference

        if read_description(Path(contender.folder)).task == "generate":
            return load_generator(Path(contender.folder), threads)
        classifier = load_reference(Path(contender.folder), threads)
    return lambda inputs: [each["label"] for each in classifier.predict(inputs)]


def fit_linear(data: DataSpec) -> Predictor:
    """TF-IDF of words and word pairs under a linear SVM, scikit-learn's defaults: what any model must beat."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    train = list(rows(data, "train"))
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LinearSVC())
    model.fit([joined((row.text, row.pair)) for row in train], [row.label for row in train])
    return lambda inputs: [str(label) for label in model.predict([joined(each) for each in inputs])]


def fit_nearest(data: DataSpec) -> Predictor:
    """The completion of the training row whose prompt is nearest by TF-IDF: what any generator must beat."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.neighbors import NearestNeighbors

    train = list(rows(data, "train"))
    vectorizer = TfidfVectorizer(ngram_range=(1, 2))
    known = vectorizer.fit_transform([joined((row.text, row.pair)) for row in train])
    index = NearestNeighbors(n_neighbors=1, metric="cosine").fit(known)

    def predict(inputs: Sequence[Input]) -> list[str]:
        asked = vectorizer.transform([joined(each) for each in inputs])
        nearest: list[list[int]] = index.kneighbors(asked, return_distance=False).tolist()
        return [train[row].label for (row,) in nearest]

    return predict


def joined(text: Input | Text) -> str:
    """One text, or both texts of a pair, for a model that knows words only."""
    return text if isinstance(text, str) else " ".join(part for part in text if part)
