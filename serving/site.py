"""All that one process without Ray answers: services, their catalogue and the forms of platforms, by path."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from starlette.types import ASGIApp, Receive, Scope, Send

from configs.schema.serving import ServingSpec
from serving.access import OPEN
from serving.endpoint import create_app, create_catalogue
from serving.kserve import HEALTH, create_kserve, is_route, model_of
from serving.openapi import program_version
from serving.platforms import Vertex, create_platforms, health_of, routes_of
from serving.prometheus import PATH as METRICS
from serving.prometheus import PrometheusExporter
from serving.relay import Parts, through
from serving.service import InService
from serving.services import Services


class Site:
    """An ASGI application that hands each request on to the application of its path."""

    def __init__(
        self, services: Services, spec: ServingSpec, vertex: Vertex, exporter: PrometheusExporter | None = None
    ) -> None:
        def model(service: str) -> InService:
            return services.loaded(service).model

        self._services = {name: create_app(name, spec, partial(model, name)) for name in services.names}
        self._catalogue = create_catalogue(services.listed, spec, self._relay, services.check)
        self._metrics = exporter
        self._platforms = create_platforms(services, spec, vertex)
        self._of_platforms = routes_of(vertex)
        self._open = {*OPEN, *HEALTH, *health_of(vertex)}
        self._kserve = create_kserve(services, spec, program_version())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._application(scope["path"])(scope, receive, send)

    def service_of(self, path: str) -> str | None:
        """The service that a path asks, by its name or as the only one; None where it asks none, or a body names it."""
        if path in self._of_platforms:
            return next(iter(self._services)) if len(self._services) == 1 else None
        match path.split("/", 3):
            case ["", "v1", service, *_] if service in self._services:
                return service
        return model_of(path)

    def is_open(self, path: str) -> bool:
        """Whether a path says no more than whether the process answers."""
        return path in self._open

    def _application(self, path: str) -> ASGIApp:
        if path in self._of_platforms:
            return self._platforms
        if path == METRICS and self._metrics:
            return self._metrics
        if is_route(path):
            return self._kserve
        match path.split("/", 3):
            case ["", "v1", service, *_]:
                return self._services.get(service, self._catalogue)
        return self._catalogue

    def _relay(self, service: str, path: str, body: bytes, headers: Mapping[str, str]) -> Parts:
        """Past the layer that asks for a key (`serving.access.Gate`), which is around the whole site."""
        return through(self._services[service], f"/v1/{service}/{path}", body, headers)
