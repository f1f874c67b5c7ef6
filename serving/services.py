"""Several bundles in service in one process, without Ray: verified at once, then loaded, tried and asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from configs.schema.serving import ServingSpec
from configs.schema.tasks import TASKS
from serving.bundle import Bundle, BundleError, bundle_digest
from serving.metered import Metered, meter_of
from serving.metrics import Exporter, Nowhere
from serving.runtimes import one_line, read_servable
from serving.service import (
    Answer,
    Caller,
    InService,
    Refused,
    Release,
    Route,
    Stream,
    catalogue_entry,
    check_progress,
    full,
    put_in_service,
    to_json,
)

DIGITS = 12  # of the bundle's digest, which is the version that answers carry
PATIENCE_S = 60.0  # for the first answer


class Admitting:
    """A model in service that takes so many requests at a time and refuses more; see `serving.service.InService`."""

    def __init__(self, model: InService, most: int) -> None:
        self._model, self._most, self._running = model, most, 0
        self._routes = {path: partial(self._ask, route) for path, route in model.routes.items()}

    @property
    def routes(self) -> Mapping[str, Route]:
        """Those of the model."""
        return self._routes

    def running_s(self) -> float:
        """Of the model."""
        return self._model.running_s()

    async def _ask(self, route: Route, body: bytes, caller: Caller) -> Answer:
        if self._running >= self._most:
            raise full()
        self._running += 1
        try:
            answer = await route(body, caller)
        except BaseException:
            self._running -= 1
            raise
        if isinstance(answer, Stream):
            return Stream(answer.events, self._closing(answer))
        self._running -= 1
        return answer

    def _closing(self, stream: Stream) -> Callable[[], None]:
        """What ends the stream and frees its place."""
        places = [1]

        def close() -> None:
            self._running -= places.pop() if places else 0
            stream.close()

        return close


@dataclass(frozen=True)
class Loaded:
    """A bundle that answers."""

    bundle: Bundle
    release: Release
    model: InService
    prediction: Mapping[str, Any]  # what it said of the first input
    entry: Mapping[str, Any]  # of GET /v1/models


class Services:
    """The services of a process, by name."""

    def __init__(self, folders: Mapping[str, Path], spec: ServingSpec, exporter: Exporter | None = None) -> None:
        """Verify the bundles. Raises `BundleError`."""
        self._spec, self._exporter = spec, exporter or Nowhere()
        self._verified = {service: _verified(service, folder) for service, folder in folders.items()}
        self._loaded: dict[str, Loaded] = {}

    @property
    def names(self) -> list[str]:
        """In the order in which they were given."""
        return list(self._verified)

    def version(self, service: str) -> str:
        """That answers of the service carry."""
        return self._verified[service][0].version

    async def load(self) -> None:
        """Load and try all bundles off the event loop, one after the other. Raises `BundleError`."""
        for service, (release, bundle) in self._verified.items():
            try:
                meter = meter_of(self._exporter, service, release)
                model = await asyncio.to_thread(put_in_service, service, release, self._spec, meter)
            except BundleError as error:
                raise BundleError(f"{service}: {one_line(error)}") from None
            prediction = await first_answer(service, release, bundle, model)
            counted = Metered(Admitting(model, self._spec.max_ongoing_requests), meter)
            entry = catalogue_entry(service, release, self._spec)
            self._loaded[service] = Loaded(bundle, release, counted, prediction, entry)

    def check_progress(self) -> None:
        """Raise `Refused` where a model does not get on, so that whoever watches the process starts it anew."""
        for each in self._loaded.values():
            try:
                check_progress(each.model)
            except RuntimeError as error:
                raise Refused(503, str(error)) from None

    def check(self) -> None:
        """Raise `Refused` until all bundles answer, and where one does no more."""
        if len(self._loaded) < len(self._verified):
            raise Refused(503, "the bundles are still being loaded; ask again", retry=True)
        self.check_progress()

    def loaded(self, service: str) -> Loaded:
        """What answers for a service. Raises `Refused`."""
        if service not in self._verified:
            raise Refused(404, f"no model has this name; models: {', '.join(self.names)}", "model")
        if service not in self._loaded:
            raise Refused(503, "the bundles are still being loaded; ask again", retry=True)
        return self._loaded[service]

    def only(self) -> Loaded:
        """What answers where no service is named. Raises `Refused` where there are several."""
        if len(self._verified) > 1:
            raise Refused(404, f"this route asks the only service of a process, and {len(self._verified)} run; run one")
        return self.loaded(self.names[0])

    def listed(self) -> list[dict[str, Any]]:
        """All, as GET /v1/models has them. Raises `Refused` until all answer."""
        return [dict(self.loaded(service).entry) for service in self.names]


def _verified(service: str, folder: Path) -> tuple[Release, Bundle]:
    try:
        bundle = read_servable(folder)
        version = bundle_digest(folder)[:DIGITS]
    except BundleError as error:
        raise BundleError(f"{service}: {one_line(error)}") from None
    return Release(bundle=str(folder), name=bundle.name, version=version), bundle


async def first_answer(service: str, release: Release, bundle: Bundle, model: InService) -> Mapping[str, Any]:
    """A prediction, asked for as a customer would. Raises `BundleError` where there is none."""
    given = {"text": "a", "text_pair": "b"} if bundle.pairs else "a"
    short = {"max_tokens": 1} if TASKS[bundle.task].writes else {}
    caller = Caller(asyncio.Event().wait, asyncio.get_running_loop().time() + PATIENCE_S)
    try:
        async with asyncio.timeout_at(caller.until):
            answer = await model.routes[""](to_json({"inputs": [given], **short}), caller)
        assert isinstance(answer, Mapping)
        to_json(answer)  # which refuses what is no number
        return answer["predictions"][0]
    except Exception as error:  # noqa: BLE001 - the runtimes' errors share no public base class
        raise BundleError(f"{service}: {release.bundle}: cannot answer: {one_line(error)}") from None
