"""Classifiers in service: labels for inputs, those of several requests at a time.

    {"inputs": [...]} -> {"model": {"name", "version"}, "predictions": [{"label", "score"}, ...]}

With "scores": true also the probability of every label, with "details": true what was read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from pydantic import Field

from configs.schema.serving import ServingSpec
from serving.batches import Batches
from serving.classifier import DETAILS, Classifier, Prediction
from serving.forms import Entry, Form, Schema, answer_of, example_of, inputs_of, schema_of
from serving.inputs import Row, characters
from serving.metrics import UNMETERED, Meter
from serving.questions import DETAILED, Question, read_question
from serving.runtime import load_bundle
from serving.service import Answer, Caller, Release, Route


class LabelQuestion(Question):
    """The body of a request."""

    scores: bool = Field(
        default=False,
        description="true or false",
        json_schema_extra={"description": "true adds the probability of every label"},
    )
    details: bool = Field(default=False, description="true or false", json_schema_extra=DETAILED)


def forms(entry: Entry) -> dict[str, Form]:
    """The form of the service itself."""
    labels = entry.labels or []
    scores: Schema = {"properties": {each: {"type": "number"} for each in labels}, "required": labels}
    prediction = schema_of(Prediction, label={"enum": labels}, scores={**scores, "additionalProperties": False})
    body = schema_of(LabelQuestion, inputs=inputs_of(entry))
    return {"": Form("Label inputs", body, answer_of(prediction), {"inputs": [example_of(entry)], "scores": True})}


@dataclass(frozen=True)
class Waiting:
    """Checked rows of one request."""

    rows: list[Row]
    all_scores: bool = False
    details: bool = False


class Labelling:
    """See `serving.service.InService`."""

    def __init__(self, classifier: Classifier, release: Release, spec: ServingSpec, meter: Meter = UNMETERED) -> None:
        self.classifier, self._release, self._spec, self._meter = classifier, release, spec, meter
        wait_s = spec.batch_wait_ms / 1000
        self._batches = Batches(
            self.predict_together, lambda each: len(each.rows), spec.max_batch_size, wait_s, meter.batch
        )

    @property
    def routes(self) -> Mapping[str, Route]:
        """The service itself."""
        return {"": self._answer}

    def running_s(self) -> float:
        """Seconds since the batch at work began."""
        return self._batches.running_s()

    async def _answer(self, body: bytes, _: Caller) -> Answer:
        question = read_question(body, LabelQuestion, self._spec.max_inputs)
        waiting = Waiting(self.classifier.rows(question.inputs), question.scores, question.details)
        return {"model": self._release.model, "predictions": await self.predict(waiting)}

    async def predict(self, waiting: Waiting) -> list[Prediction]:
        """The predictions of one request, answered together with others."""
        predictions = await self._batches.answer(waiting)
        for row, each in zip(waiting.rows, predictions, strict=True):
            self._meter.read(characters(row))
            self._meter.label(each["label"], each["score"])
        return predictions

    def predict_together(self, batch: list[Waiting]) -> list[list[Prediction]]:
        """The predictions of each request."""
        rows = [row for each in batch for row in each.rows]
        flags = [any(getattr(each, name) for each in batch) for name in ("all_scores", "details")]
        predictions = iter(self.classifier.predict(rows, *flags))
        return [[_trim(next(predictions), each) for _ in each.rows] for each in batch]


def put_in_service(_: str, release: Release, spec: ServingSpec, meter: Meter = UNMETERED) -> Labelling:
    """Load a classifier. Raises `BundleError`."""
    return Labelling(load_bundle(release.bundle, spec.threads), release, spec, meter)


def _trim(prediction: Prediction, request: Waiting) -> Prediction:
    """The prediction without fields that only other requests of the batch asked for."""
    left = (set() if request.all_scores else {"scores"}) | (set() if request.details else DETAILS)
    return cast(Prediction, {name: value for name, value in prediction.items() if name not in left})
