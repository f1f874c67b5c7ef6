"""A cascade: a small model answers where it is sure, and the bundle's own model answers the rest.

The fields of `bundle.json` describe the second model; its field `first` describes the model that is asked first.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.schema.tasks import TASKS
from serving.bundle import ABOUT, Bundle, BundleError, ModelEntry, read_bundle, write_bundle
from serving.classifier import Classifier
from serving.inputs import Input, Reading

if TYPE_CHECKING:
    import numpy as np

FIRST = "first"  # folder of the first model's files


class Cascade(Classifier):
    """A classifier that is asked only where `first` is less sure than the bundle's threshold."""

    def __init__(self, first: Classifier, *second: Any) -> None:
        """`second`: the arguments of a `Classifier` for the second model, with the bundle of both."""
        super().__init__(*second)
        assert self.bundle.first is not None
        self._first = first
        self._threshold = self.bundle.first.threshold

    def scores(self, inputs: Sequence[Input]) -> np.ndarray:
        """Probabilities, float32 [N, C], of each input by the model that answers it. Raises `InputError`."""
        rows = self.rows(inputs)
        scores_NC = self._first.scores(rows)
        unsure = (~self._sure(scores_NC)).nonzero()[0]
        if len(unsure):
            scores_NC[unsure] = super().scores([rows[index] for index in unsure])
        return scores_NC

    def readings(self, inputs: Sequence[Input]) -> list[Reading]:
        """Counts by the tokenizer of the model that answers each input, in order. Asks the first model again."""
        rows = self.rows(inputs)
        readings = self._first.readings(rows)
        unsure = (~self._sure(self._first.scores(rows))).nonzero()[0]
        for index, read in zip(unsure, super().readings([rows[index] for index in unsure]), strict=True):
            readings[index] = read
        return readings

    def share_first(self, inputs: Sequence[Input]) -> float:
        """Share of `inputs`, at least one, that the first model answers. Raises `InputError`."""
        return float(self._sure(self._first.scores(inputs)).mean())

    def _sure(self, scores_NC: np.ndarray) -> np.ndarray:
        return scores_NC.max(axis=1) >= self._threshold


def check_pair(first: Bundle, second: Bundle) -> None:
    """Raise `BundleError` where two bundles do not make a cascade."""
    for bundle in (first, second):
        joined = bundle.kind or ("cascade" if bundle.first else None)
        if not TASKS[bundle.task].labelled or bundle.runtime == "torch" or joined:
            kind = joined or f"{bundle.runtime} bundle for task {bundle.task!r}"
            raise BundleError(f"bundle {bundle.name!r}: a {kind}; a cascade joins two exported classifiers")
    if first.labels != second.labels:
        raise BundleError(
            f"bundles {first.name!r} and {second.name!r}: their labels differ or stand in another order; "
            "a cascade joins two models of the same rows"
        )
    if first.pairs != second.pairs:
        raise BundleError(f"bundles {first.name!r} and {second.name!r}: one answers pairs of texts, one single texts")


def join(
    folder: Path,
    first: Path,
    second: Path,
    threshold: float,
    temperatures: tuple[float, float] = (1.0, 1.0),
    metrics: Mapping[str, float] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Bundle:
    """Make `folder` the cascade of the bundles `first` and `second`, with the files of both.

    The first answers where its probability is at least `threshold`; the logits of each model are divided by its
    temperature. A tokenizer that both have is kept once. Raises `BundleError`.
    """
    small, large = read_bundle(first), read_bundle(second)
    check_pair(small, large)
    shared = small.files[small.tokenizer] == large.files[large.tokenizer]
    left = ABOUT | {small.tokenizer} if shared else ABOUT
    names = {name: f"{FIRST}/{name}" for name in small.files if name not in left}
    entry = small.model_dump(include=set(ModelEntry.model_fields)) | {
        "model": names[small.model],
        "tokenizer": names.get(small.tokenizer, large.tokenizer),
        "temperature": small.temperature * temperatures[0],
        "threshold": threshold,
    }
    fields = large.model_dump(exclude={"files"}) | {
        "first": entry,
        "temperature": large.temperature * temperatures[1],
        "metrics": dict(metrics or {}),
        "provenance": dict(provenance or {}),
    }

    def fill(aside: Path) -> None:
        copies = [(first / name, aside / kept) for name, kept in names.items()]
        for source, target in [*copies, *((second / name, aside / name) for name in large.files if name not in ABOUT)]:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)

    return write_bundle(folder, fields, fill)
