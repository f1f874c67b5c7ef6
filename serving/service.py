"""A bundle in service: what HTTP asks of it, whatever its task.

The record of a task, or of a kind of bundles, names the function that puts its bundles in service, `(service, release,
serving, meter) -> InService`; `serving.labelling`, `serving.writing` and `serving.replying` have one each.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import Field
from starlette.exceptions import HTTPException

from configs.loader import Spec
from configs.schema.serving import ServingSpec
from configs.schema.tasks import TASKS, named
from serving.bundle import Bundle, read_description
from serving.forms import Entry, Limits
from serving.metrics import UNMETERED, Meter

VERSION = "X-Model-Version"  # header by which a request chooses who answers
STUCK_AFTER_S = 30.0  # a batch, or a token, takes milliseconds; what has not got on for so long will not


class Release(Spec):
    """The model that a service runs: Serve's `user_config`."""

    bundle: str = Field(description="folder of the bundle, the same on every node")
    name: str = Field(description="name that answers carry")
    version: str = Field(description="version that answers carry")
    evidence: dict[str, float] = Field(default={}, description="figures for which it was let into service")

    @property
    def model(self) -> dict[str, str]:
        """As answers name it."""
        return {"name": self.name, "version": self.version}

    def is_model_of(self, other: Release) -> bool:
        """Whether both are one model, whatever was measured since."""
        return (self.bundle, self.model) == (other.bundle, other.model)


class Refused(HTTPException):
    """A request is not answered; the one line names the field and the reason, never the customer's text."""

    def __init__(
        self,
        status: int,
        detail: str,
        field: str | None = None,
        retry: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`field`: of the body, that is at fault; `retry`: whether the same request may be answered a second later."""
        super().__init__(status, detail, {"Retry-After": "1"} if retry else headers)
        self.field = field


def full(what: str = "requests") -> Refused:
    """A request is refused since too many wait already; the same one may be answered a second later."""
    return Refused(429, f"too many {what} wait already; ask again", retry=True)


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True)
class Caller:
    """Who waits for an answer."""

    left: Callable[[], Awaitable[object]]  # returns once the client has gone away
    until: float  # time of the event loop when the answer is given up
    header: Callable[[str], str | None] = lambda _: None  # a header of the request, by its name


@dataclass(frozen=True)
class Stream:
    """An answer that is sent as it comes."""

    events: AsyncIterator[bytes]  # server-sent events
    close: Callable[[], None]  # ends the work, wherever it is


Answer = Mapping[str, Any] | Stream  # an object to be sent as JSON, or a stream
Route = Callable[[bytes, Caller], Awaitable[Answer]]  # of a request's body


class InService(Protocol):
    """A loaded bundle that answers the requests of one event loop."""

    @property
    def routes(self) -> Mapping[str, Route]:
        """What answers, by what follows `/v1/<service>` in the path; "" is the service itself.

        A route raises `Refused`, `serving.inputs.InputError` for an input that it refuses, `TimeoutError` at the end of
        `Caller.until` and `ClientLeft`. Before it returns a `Stream` everything about the request is checked.
        """
        ...

    def running_s(self) -> float:
        """Seconds for which the work at hand has not got on; 0 where there is none."""
        ...


class Versioned(InService, Protocol):
    """One that knows its version."""

    @property
    def version(self) -> str:
        """That its answers carry."""
        ...


def check_version(caller: Caller, versions: Sequence[str]) -> None:
    """Raise `Refused` where a request asks for another version than those that answer."""
    if caller.header(VERSION) not in (None, *versions):
        raise Refused(422, f"{VERSION}: {' and '.join(versions)} can be asked for here", VERSION)


def check_progress(model: InService) -> None:
    """Raise `RuntimeError` where the work at hand does not get on."""
    if model.running_s() > STUCK_AFTER_S:
        raise RuntimeError(f"the model has not got on for more than {STUCK_AFTER_S:g} s")


def catalogue_entry(service: str, release: Release, spec: ServingSpec) -> dict[str, Any]:
    """What GET /v1/models says of a service that is ready now, see `serving.forms.Entry`. Raises `BundleError`."""
    folder, now = Path(release.bundle), datetime.now(UTC)
    bundle = read_description(folder)
    task, record = TASKS[bundle.task], bundle.record
    limits = {name: getattr(spec, name) for name in Limits.model_fields}
    if task.writes:
        limits["max_tokens"] = spec.max_tokens or bundle.max_length
    entry = Entry(
        service=service,
        name=release.name,
        version=release.version,
        task=bundle.task,
        kind=bundle.kind or ("single" if bundle.first is None else "cascade"),
        pairs=bundle.pairs,
        attributes=bundle.attributes,
        conversations=bundle.chat_template is not None,
        checked=bundle.checked,
        created=int(now.timestamp()),
        since=now.isoformat(timespec="seconds"),
        labels=bundle.labels if task.labelled else None,
        max_length=None if task.labelled else bundle.max_length,
        manner=bundle.manner or None,
        fields=named(record.fields)(folder) if record.fields else None,
        evidence=release.evidence or measured(bundle) or None,
        limits=Limits.model_validate(limits),
    )
    return entry.model_dump(exclude_none=True)


def measured(bundle: Bundle) -> dict[str, float]:
    """What the bundle's manifest says of validation rows, of latency and of size, by names that say so."""
    metric = TASKS[bundle.task].metric
    of_rows = {name: f"validation_{name}" for name in (metric, "retention")}
    names = of_rows | {name: name for name in (f"validation_{metric}", "p95_ms", "megabytes")}
    found = {shown: bundle.metrics[name] for name, shown in names.items() if name in bundle.metrics}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def event(data: Any, kind: str = "") -> bytes:
    """A server-sent event that holds JSON; of a `kind`, where it is no plain message."""
    head = f"event: {kind}\n".encode() if kind else b""
    return head + b"data: " + to_json(data) + b"\n\n"


def to_json(value: Any) -> bytes:
    """JSON in UTF-8, without line breaks."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


Made = TypeVar("Made")


async def unless_left(work: Coroutine[Any, Any, Made], caller: Caller) -> Made:
    """The result of `work`, which is cancelled where the client goes away first. Raises `ClientLeft`."""
    done, gone = asyncio.ensure_future(work), asyncio.ensure_future(caller.left())
    try:
        await asyncio.wait({done, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            raise ClientLeft
        return done.result()
    finally:
        done.cancel()
        gone.cancel()


def put_in_service(service: str, release: Release, spec: ServingSpec, meter: Meter = UNMETERED) -> InService:
    """Verify the bundle and load it as its kind or its task wants it. Raises `BundleError`."""
    return named(read_description(Path(release.bundle)).record.service)(service, release, spec, meter)
