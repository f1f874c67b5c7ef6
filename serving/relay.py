"""Requests that reach a service through the catalogue, which knows it by the `model` in their body.

The catalogue hands the body on by a call of the service's deployment, and gets back what the service would have sent:
first its head (status and headers as JSON), then its body in parts.

Where API keys are asked for, the catalogue has asked (`serving.access`). What is called here is the application inside
that layer, with a request made here. A client gives its body, the version that it asks for, and the header by which a
rollout tells customers apart: nothing else in it says who the client is.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.admission import FORBIDDEN
from serving.questions import listed, read_body
from serving.service import VERSION, Caller, Refused, to_json, unless_left

Parts = AsyncGenerator[bytes, None]


class Named(BaseModel):
    """The part of a body that the catalogue reads."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model: str = Field(description="the name of a service")


def service_named(body: bytes, services: Sequence[str], may_ask: Callable[[str], bool] = lambda _: True) -> str:
    """The service that is the `model` of a body, and that the client may ask. Raises `Refused`."""
    named = read_body(body, Named, "an object with model")
    if not may_ask(named.model):
        raise Refused(403, FORBIDDEN, "model")
    if named.model not in services:
        known = sorted(filter(may_ask, services))
        raise Refused(404, f"model must be a service: {listed(known) if known else 'none yet'}", "model")
    return named.model


def handed_on(entry: Mapping[str, Any], header: Callable[[str], str | None], request_id: str) -> dict[str, str]:
    """The headers of a request that its service gets; `entry` is the service's of GET /v1/models."""
    known = filter(None, (VERSION, entry.get("candidate", {}).get("sticky")))
    given = {name.lower(): header(name) for name in known}
    return {"x-request-id": request_id} | {name: value for name, value in given.items() if value is not None}


async def through(app: ASGIApp, path: str, body: bytes, headers: Mapping[str, str]) -> Parts:
    """What `app` sends for a POST to `path` with JSON. Whoever stops to read has gone away, for the app as well."""
    sent: asyncio.Queue[Message | None] = asyncio.Queue()
    asked: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if not asked:
            await asyncio.Event().wait()
        return asked.pop()

    task = asyncio.ensure_future(app(_scope(path, headers), receive, sent.put))
    task.add_done_callback(lambda _: sent.put_nowait(None))
    try:
        while (message := await sent.get()) is not None:
            if message["type"] == "http.response.start":
                headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
                headers.pop("content-length", None)
                yield to_json({"status": message["status"], "headers": headers})
            elif part := message.get("body", b""):
                yield part
    finally:
        task.cancel()


async def relayed(parts: Parts, caller: Caller) -> Response:
    """The answer whose `parts` come from a service. Raises `ClientLeft`."""
    try:
        head = json.loads(await unless_left(anext(parts), caller))
    except BaseException:
        await parts.aclose()
        raise
    return _Relayed(parts, head["status"], head["headers"])


class _Relayed(StreamingResponse):
    def __init__(self, parts: Parts, status: int, headers: dict[str, str]) -> None:
        super().__init__(parts, status, headers)
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._parts.aclose()


def _scope(path: str, headers: Mapping[str, str]) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"content-type", b"application/json"),
            *((name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()),
        ],
        "client": None,
        "server": None,
    }
