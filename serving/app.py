"""Ray Serve's side: one application per service whose ingress holds the model, and a catalogue of them.

    POST /v1/<service>   {"inputs": [...]} -> {"model": {"name", "version"}, "predictions": [...]}
                         with "scores": true the probability of every label, with "details": true what was read
    GET  /v1/models, GET /healthz                            the catalogue, an application without a model

`build` and `build_catalogue` are what Serve imports; `serving.endpoint` is the same HTTP without Ray.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import ray
from fastapi import FastAPI
from pydantic import Field
from ray import serve

from configs.loader import Spec
from configs.schema.serving import ServingSpec
from serving.batches import Batches
from serving.classifier import DETAILS, Classifier, Prediction
from serving.endpoint import Answer, Question, create_app, create_catalogue
from serving.inputs import Row
from serving.runtime import load_bundle

START_ATTEMPTS = 2  # a replica that fails to start twice fails the deployment
STUCK_AFTER_S = 30.0  # a batch takes milliseconds; one that runs this long will not come back


class Release(Spec):
    """The model that a service runs: Serve's `user_config`."""

    bundle: str = Field(description="folder of the bundle, the same on every node")
    name: str = Field(description="name that answers carry")
    version: str = Field(description="version that answers carry")


class ServiceArgs(Spec):
    """Arguments of `build`. A new `release` makes Serve start new replicas beside the old ones."""

    service: str
    serving: ServingSpec
    release: str = Field(description="digest of the user_config")


@dataclass(frozen=True)
class Loaded:
    """A model with the name and version that its answers carry."""

    classifier: Classifier
    release: Release


@dataclass(frozen=True)
class Waiting:
    """Checked rows of one request, tied to the model that was there when it came."""

    loaded: Loaded
    rows: list[Row]
    all_scores: bool = False
    details: bool = False


class Service:
    """Holds one model and answers with it; `build` wraps it for Serve."""

    def __init__(self, args: ServiceArgs) -> None:
        self._args = args
        self._loaded: Loaded | None = None
        limits = args.serving
        self._batches = Batches(
            predict_together, lambda each: len(each.rows), limits.max_batch_size, limits.batch_wait_ms / 1000
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        keep_to_node()
        return create_app(self._args.service, self._args.serving, self.answer)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Load the bundle off the event loop, then swap; raises `BundleError` and keeps the old model."""
        release = Release.model_validate(user_config)
        load = partial(load_bundle, release.bundle, self._args.serving.threads)
        classifier = await asyncio.get_running_loop().run_in_executor(None, load)
        self._loaded = Loaded(classifier, release)

    def check_health(self) -> None:
        """Raise where no model is loaded or a batch is stuck, so that Serve replaces the replica."""
        if self._loaded is None:
            raise RuntimeError("no model is loaded; user_config names none")
        if self._batches.running_s() > STUCK_AFTER_S:
            raise RuntimeError(f"a batch has run for more than {STUCK_AFTER_S:g} s")

    async def answer(self, question: Question) -> Answer:
        """Raises `InputError` that names the index of a wrong input."""
        if (loaded := self._loaded) is None:
            raise RuntimeError("no model is loaded; user_config names none")
        waiting = Waiting(loaded, loaded.classifier.rows(question.inputs), question.scores, question.details)
        predictions = await self._batches.answer(waiting)
        return Answer(model=loaded.release.model_dump(include={"name", "version"}), predictions=predictions)


def keep_to_node() -> None:
    """Have this replica take calls of other deployments at its node's address; Serve would listen on all interfaces.

    Serve opens that port after it made the deployment's object, by a function that it looks up in its module.
    """
    from ray._common.tls_utils import add_port_to_grpc_server
    from ray.serve._private import replica

    address = f"{ray.util.get_node_ip_address()}:0"
    replica.add_port_to_grpc_server = (  # pyright: ignore[reportPrivateImportUsage] - it is where Serve looks
        lambda server, _: add_port_to_grpc_server(server, address)
    )


def predict_together(batch: list[Waiting]) -> list[list[Prediction]]:
    """The predictions of each request; requests that came before and after a swap are run apart."""
    answers: dict[int, list[Prediction]] = {}
    for loaded in {id(each.loaded): each.loaded for each in batch}.values():
        mine = [index for index, each in enumerate(batch) if each.loaded is loaded]
        rows = [row for index in mine for row in batch[index].rows]
        flags = [any(getattr(batch[index], name) for index in mine) for name in ("all_scores", "details")]
        rest = iter(loaded.classifier.predict(rows, *flags))
        for index in mine:
            answers[index] = [_trim(next(rest), batch[index]) for _ in batch[index].rows]
    return [answers[index] for index in range(len(batch))]


class Catalogue:
    """Lists the services; it has no model, and answers requests that belong to no service."""

    def __init__(self) -> None:
        self._models: list[dict[str, Any]] = []

    def __serve_build_asgi_app__(self) -> FastAPI:
        keep_to_node()
        return create_catalogue(lambda: self._models)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        self._models = user_config["services"]


def build(args: dict[str, Any]) -> serve.Application:
    """The application of a service, which Serve imports; `args` are `ServiceArgs`, the config brings the model."""
    checked = ServiceArgs.model_validate(args)
    deployment: Any = serve.deployment(max_constructor_retry_count=START_ATTEMPTS)(serve.ingress()(Service))
    return deployment.bind(checked)


def build_catalogue(args: dict[str, str]) -> serve.Application:
    """The application of the catalogue, which Serve imports."""
    deployment: Any = serve.deployment(serve.ingress()(Catalogue))
    return deployment.bind()


def _trim(prediction: Prediction, request: Waiting) -> Prediction:
    """The prediction without fields that only other requests of the batch asked for."""
    left = (set() if request.all_scores else {"scores"}) | (set() if request.details else DETAILS)
    return cast(Prediction, {name: value for name, value in prediction.items() if name not in left})
