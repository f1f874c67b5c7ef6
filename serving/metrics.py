"""What a service counts and times, for Prometheus.

A `Meter` is told of what happens to one model of a service. It writes to an `Exporter`: Ray's within Serve
(`serving.ray_metrics`), one of its own without (`serving.prometheus`), which both know the metrics of this file by the
same names. Where the bundle has a profile, it is told how far inputs and answers are from that (`serving.drift`). No
label and no value is a customer's text, a request's id or a key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from serving.drift import CHARACTERS, CONFIDENCE, LABEL, Profile, windows

OK = "200"
MOST_LABELS = 100  # labels of a bundle that have a series of their own
OTHER = "other"  # all further labels
SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0)
LENGTHS = (8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
OF_MODEL = ("service", "version")


class Metric(NamedTuple):
    """A name that Prometheus knows."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = OF_MODEL
    buckets: tuple[float, ...] = ()  # of a histogram: upper bounds


REQUESTS = Metric(
    "slimcart_requests", "counter", "requests that a model got, by what came of them", (*OF_MODEL, "status")
)
REQUEST_SECONDS = Metric("slimcart_request_seconds", "histogram", "time of an answered request in all", buckets=SECONDS)
MODEL_SECONDS = Metric("slimcart_model_seconds", "histogram", "time of a batch or round in the model", buckets=SECONDS)
BATCH_INPUTS = Metric("slimcart_batch_inputs", "histogram", "inputs of a batch or round", buckets=SIZES)
ONGOING = Metric("slimcart_ongoing_requests", "gauge", "requests that are being answered")
WAITING = Metric("slimcart_waiting_inputs", "gauge", "inputs that wait for the model, after a batch or round was cut")
TOKENS = Metric("slimcart_tokens", "counter", "tokens that a decoder read and wrote", (*OF_MODEL, "what"))
LABELS = Metric("slimcart_labels", "counter", "inputs by the label that they got", (*OF_MODEL, "label"))
CONFIDENCES = Metric("slimcart_confidence", "histogram", "probability of the label that an input got", buckets=SHARES)
INPUT_CHARACTERS = Metric("slimcart_input_characters", "histogram", "length of an input", buckets=LENGTHS)
MODEL = Metric("slimcart_model_info", "gauge", "1 for a model that was opened", (*OF_MODEL, "task"))
DRIFT = Metric(
    "slimcart_drift",
    "gauge",
    "population stability index of the last inputs and answers against the validation rows",
    (*OF_MODEL, "what"),
)
OF_REQUESTS = (REQUESTS, REQUEST_SECONDS, ONGOING)
OF_MODELS = (MODEL, MODEL_SECONDS, BATCH_INPUTS, WAITING, TOKENS)
OF_INPUTS = (INPUT_CHARACTERS, LABELS, CONFIDENCES, DRIFT)
ALL = (*OF_REQUESTS, *OF_MODELS, *OF_INPUTS)


class Exporter(Protocol):
    """Where metrics go. May be called from several threads."""

    def write(self, metric: Metric, value: float, labels: Mapping[str, str]) -> None:
        """Add to a counter, set a gauge, or put into a histogram."""
        ...


class Nowhere:
    """An exporter that nobody reads."""

    def write(self, metric: Metric, value: float, labels: Mapping[str, str]) -> None:
        """Nothing."""


class Meter:
    """Is told what happens to one model of a service."""

    def __init__(
        self,
        exporter: Exporter,
        service: str,
        version: str,
        labels: Sequence[str] = (),
        profile: Profile | None = None,
    ) -> None:
        self._exporter, self.version = exporter, version
        self._of_model = {"service": service, "version": version}
        self._named = frozenset(labels[:MOST_LABELS])
        self._gauges: dict[tuple[Metric, str], tuple[float, Mapping[str, str]]] = {}
        self._windows = windows(profile, lambda what, index: self._set(DRIFT, index, what=what))

    def _set(self, gauge: Metric, value: float, **labels: str) -> None:
        """Write a gauge, and keep it for `refresh`; the values of its own `labels` tell its series apart."""
        told = {**self._of_model, **labels}
        self._gauges[gauge, ",".join(labels.values())] = value, told
        self._exporter.write(gauge, value, told)

    def refresh(self) -> None:
        """Write all gauges once more: some exporters drop one that was not written for a while."""
        for (gauge, _), (value, labels) in list(self._gauges.items()):
            self._exporter.write(gauge, value, labels)

    def _watch(self, what: str, value: str | float) -> None:
        if window := self._windows.get(what):
            window.add(value)

    def opens(self, task: str) -> None:
        """The model is opened, to answer for its task."""
        self._set(MODEL, 1, task=task)

    def request(self, status: str, seconds: float) -> None:
        """A request has ended."""
        self._exporter.write(REQUESTS, 1, {**self._of_model, "status": status})
        if status == OK:
            self._exporter.write(REQUEST_SECONDS, seconds, self._of_model)

    def ongoing(self, number: int) -> None:
        """So many requests are being answered."""
        self._set(ONGOING, number)

    def batch(self, inputs: int, seconds: float, waiting: int) -> None:
        """The model has answered a batch, or written a round, while so many inputs waited."""
        self._exporter.write(MODEL_SECONDS, seconds, self._of_model)
        self._exporter.write(BATCH_INPUTS, inputs, self._of_model)
        self._set(WAITING, waiting)

    def tokens(self, what: Literal["prompt", "completion"], number: int) -> None:
        """A decoder has read or written tokens."""
        if number:
            self._exporter.write(TOKENS, number, {**self._of_model, "what": what})

    def read(self, characters: int) -> None:
        """The model is to answer an input of that length."""
        self._exporter.write(INPUT_CHARACTERS, characters, self._of_model)
        self._watch(CHARACTERS, characters)

    def label(self, label: str, confidence: float) -> None:
        """An input has got its label."""
        told = label if label in self._named else OTHER
        self._exporter.write(LABELS, 1, {**self._of_model, "label": told})
        self._exporter.write(CONFIDENCES, confidence, self._of_model)
        self._watch(LABEL, label)
        self._watch(CONFIDENCE, confidence)


UNMETERED = Meter(Nowhere(), "", "")
