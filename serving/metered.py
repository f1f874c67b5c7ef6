"""A model in service whose requests are counted, whatever its task."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path

from serving.bundle import read_description
from serving.drift import read_profile
from serving.inputs import InputError
from serving.metrics import OK, Exporter, Meter
from serving.service import Answer, Caller, ClientLeft, InService, Refused, Release, Route, Stream, check_version

UNPROCESSABLE, LEFT, FAILED, DEADLINE = "422", "499", "500", "504"


def meter_of(exporter: Exporter, service: str, release: Release) -> Meter:
    """What is told of a release of a service. Raises `BundleError`."""
    folder = Path(release.bundle)
    bundle = read_description(folder)
    meter = Meter(exporter, service, release.version, bundle.labels, read_profile(folder))
    meter.opens(bundle.task)
    return meter


class Metered:
    """A model in service whose requests are counted; see `serving.service.InService`."""

    def __init__(self, model: InService, meter: Meter) -> None:
        self._model, self._meter, self._ongoing = model, meter, 0
        self._routes = {path: partial(self._ask, route) for path, route in model.routes.items()}

    @property
    def routes(self) -> Mapping[str, Route]:
        """Those of the model."""
        return self._routes

    @property
    def version(self) -> str:
        """That its answers carry."""
        return self._meter.version

    def running_s(self) -> float:
        """Of the model."""
        return self._model.running_s()

    def refresh(self) -> None:
        """Tell the gauges of the model once more, see `Meter.refresh`."""
        self._meter.refresh()

    async def _ask(self, route: Route, body: bytes, caller: Caller) -> Answer:
        began = time.perf_counter()
        self._change(+1)
        try:
            check_version(caller, [self.version])
            answer = await route(body, caller)
        except BaseException as error:
            self._end(status_of(error), began)
            raise
        if isinstance(answer, Stream):
            return self._counted(answer, began)
        self._end(OK, began)
        return answer

    def _counted(self, stream: Stream, began: float) -> Stream:
        """A stream is counted once, when it has ended or is given up."""
        status = LEFT
        open_ = [True]

        async def events() -> AsyncIterator[bytes]:
            nonlocal status
            try:
                async for each in stream.events:
                    yield each
            except Exception as error:
                status = status_of(error)
                raise
            status = OK

        def close() -> None:
            if open_:
                open_.clear()
                self._end(status, began)
            stream.close()

        return Stream(events(), close)

    def _change(self, by: int) -> None:
        self._ongoing += by
        self._meter.ongoing(self._ongoing)

    def _end(self, status: str, began: float) -> None:
        self._change(-1)
        self._meter.request(status, time.perf_counter() - began)


def status_of(error: BaseException) -> str:
    """The HTTP status that tells of an error, as `serving.endpoint` answers it."""
    match error:
        case Refused():
            return str(error.status_code)
        case InputError():
            return UNPROCESSABLE
        case ClientLeft():
            return LEFT
        case TimeoutError() | asyncio.CancelledError():
            return DEADLINE
    return FAILED
