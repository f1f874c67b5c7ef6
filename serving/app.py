"""Ray Serve's side: one application per service whose ingress holds the model, and a catalogue of them.

    POST /v1/<service>   what the service's task answers: see `serving.labelling`, `serving.writing`
    GET  /v1/models, GET /healthz, POST /v1/completions      the catalogue, an application without a model

Where API keys are asked for, each of the two asks at its own door (`serving.access`). What the catalogue hands on comes
by a call inside the cluster, to the application behind the service's door.

`build` and `build_catalogue` are what Serve imports; `serving.endpoint` is the same HTTP without Ray.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import ray
from fastapi import FastAPI
from pydantic import Field
from ray import serve
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from configs import core_files
from configs.loader import Spec
from configs.schema.serving import ServingSpec
from serving.access import Gate
from serving.admission import Keys
from serving.bundle import read_description
from serving.endpoint import create_app, create_catalogue
from serving.metered import Metered, meter_of
from serving.ray_metrics import RayExporter
from serving.relay import through
from serving.rollout import Counts, Report, Rollout, alike_of
from serving.running import Running, read_running
from serving.service import InService, Refused, Release, check_progress, full, put_in_service
from serving.services import first_answer

logger = logging.getLogger("ray.serve")
START_ATTEMPTS = 2  # a replica that fails to start twice fails the deployment


class ServiceArgs(Spec):
    """Arguments of `build`. A new `running` makes Serve start new replicas beside the old ones."""

    service: str
    serving: ServingSpec
    running: str = Field(description="file that says what the service runs, once that is another than at first")


class Service:
    """Holds one model and answers with it, or two while a rollout lasts; `build` wraps it for Serve."""

    def __init__(self, args: ServiceArgs) -> None:
        core_files.forbid()  # whatever started the cluster
        self._args, self._exporter = args, RayExporter()
        self._running: Running | None = None
        self._models: list[tuple[Release, Metered]] = []
        self._answers: InService | None = None
        self._changes = asyncio.Lock()
        self._following: asyncio.Task[Report] | None = None
        self._app = self._create_app()

    def _create_app(self) -> FastAPI:
        return create_app(self._args.service, self._args.serving, self.model)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """What HTTP reaches; `relay` answers from another, which asks for no key."""
        keep_to_node()
        app, keys = self._create_app(), open_keys(self._args.serving.keys)
        app.add_middleware(Gate, keys=lambda: keys, service_of=lambda _: self._args.service)  # the outermost
        return app

    async def relay(self, path: str, body: bytes, headers: Mapping[str, str]) -> AsyncIterator[bytes]:
        """The answer to what came to the catalogue for `/v1/<service>/<path>`, see `serving.relay`.

        The catalogue has asked for a key already, if one is asked for.
        """
        async for part in through(self._app, f"/v1/{self._args.service}/{path}", body, headers):
            yield part

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Load what the service runs: the model that it began with, or what came after. Raises `BundleError`."""
        async with self._changes:
            first = Running(number=0, champion=Release.model_validate(user_config))
            await self._become(self._read() or first)

    async def follow(self) -> dict[str, Any]:
        """Run what the file says, and give a `Report`. Raises `BundleError`, and then all stays as it was.

        What is new is loaded and tried off the event loop before it answers anybody. What the models before have begun
        to answer they answer to the end.
        """
        return (await self._follow()).model_dump()

    async def _follow(self) -> Report:
        async with self._changes:
            wanted = self._read()
            if wanted and self._running and wanted.number != self._running.number:
                await self._become(wanted)
        assert self._running
        counts = self._answers.counts if isinstance(self._answers, Rollout) else Counts()
        return Report(number=self._running.number, counts=counts)

    async def check_health(self) -> None:
        """Raise where no model is loaded or its work does not get on, so that Serve replaces the replica.

        A change that came while this replica was starting is seen here. Ray drops gauges that are not written for 20 s.
        """
        for _, model in self._models:
            model.refresh()
        check_progress(self.model())
        if self._following is None or self._following.done():
            if self._following and (error := self._following.exception()):
                logger.warning("%s: goes on as it was: %s", self._args.service, error)
            self._following = asyncio.ensure_future(self._follow())

    def model(self) -> InService:
        """What answers now."""
        if self._answers is None:
            raise RuntimeError("no model is loaded; user_config names none")
        return self._answers

    def _read(self) -> Running | None:
        return read_running(Path(self._args.running))

    async def _become(self, wanted: Running) -> None:
        champion = await self._loaded(wanted.champion)
        models, answers = [(wanted.champion, champion)], champion
        if tried := wanted.candidate:
            candidate = await self._loaded(tried.release)
            models.append((tried.release, candidate))
            alike = alike_of(read_description(Path(wanted.champion.bundle)))
            answers = Rollout(answers, candidate, tried.rollout, tried.until, alike)
        self._models, self._running, self._answers = models, wanted, answers

    async def _loaded(self, release: Release) -> Metered:
        """A model that has answered once, the one that is there if it is."""
        for known, model in self._models:
            if known.is_model_of(release):
                return model
        meter = meter_of(self._exporter, self._args.service, release)
        model = await asyncio.to_thread(put_in_service, self._args.service, release, self._args.serving, meter)
        await first_answer(self._args.service, release, read_description(Path(release.bundle)), model)
        return Metered(model, meter)


def open_keys(path: str | None) -> Keys | None:
    """The API keys of a file; None where no key is asked for."""
    return None if path is None else Keys(Path(path))


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


class Catalogue:
    """Lists the services, and hands on what names one as its model; it has no model itself."""

    def __init__(self) -> None:
        self._models: list[dict[str, Any]] = []
        self._keys: Keys | None = None

    def __serve_build_asgi_app__(self) -> FastAPI:
        keep_to_node()
        app = create_catalogue(lambda: self._models, ServingSpec.model_validate({}), self._relay)
        app.add_middleware(Gate, keys=lambda: self._keys)
        return app

    async def _relay(
        self, service: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> AsyncGenerator[bytes, None]:
        """The parts of the service's answer. Raises `Refused` where none of its replicas takes the request."""
        handle = await asyncio.to_thread(serve.get_app_handle, service)
        parts: Any = handle.options(stream=True).relay.remote(path, body, headers)
        try:
            async for part in parts:
                yield part
        except BackPressureError:
            raise full() from None
        except DeploymentUnavailableError:
            raise Refused(503, "no replica answers now; ask again", retry=True) from None
        finally:
            parts.cancel()

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """The services, and the file of API keys where a service has one; the same file keeps what it has counted."""
        path = user_config.get("keys")
        if path is None or self._keys is None or str(self._keys.path) != path:
            self._keys = open_keys(path)
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
