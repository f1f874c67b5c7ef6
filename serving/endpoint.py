"""The HTTP of a service and of the catalogue, as FastAPI applications that need no Ray.

Errors are `application/problem+json` (RFC 9457) and never repeat what the customer sent: FastAPI's own validation
error would. Bodies are counted as they arrive, whatever their Content-Length says.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from configs.schema.serving import ServingSpec
from serving.access import may_ask
from serving.failures import OPENAI, UNFORESEEN, failure, failure_event, request_name
from serving.inputs import InputError
from serving.openai import model_entry
from serving.pages import add_pages
from serving.relay import Parts, handed_on, relayed, service_named
from serving.service import Answer, Caller, ClientLeft, InService, Refused, Route, Stream, to_json

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
LEFT = 499  # nginx's status for a client that did not wait; nobody reads it
logger = logging.getLogger("ray.serve")


def create_app(service: str, spec: ServingSpec, model: Callable[[], InService]) -> FastAPI:
    """The HTTP of one service; `model` gives what answers now."""
    app = bare_app(spec.max_body_bytes)
    listing = {"object": "list", "data": [model_entry(service, int(time.time()))]}

    @app.get(f"/v1/{service}/models")
    async def list_models() -> dict[str, Any]:
        return listing

    @app.post(f"/v1/{service}")
    async def ask_service(request: Request) -> Response:
        return await answered(request, model(), "", spec.request_timeout_s)

    @app.api_route(f"/v1/{service}/{{path:path}}", methods=METHODS)
    async def ask_below(request: Request, path: str) -> Response:
        return await answered(request, model(), path, spec.request_timeout_s)

    return app


async def answered(request: Request, model: InService, path: str, seconds: float) -> Response:
    """The model's answer to a request below the service."""
    if (route := model.routes.get(path)) is None:
        if OPENAI.fullmatch(request.scope["path"]):
            raise Refused(404, "the model of this service does not answer here", "model")
        raise HTTPException(404)
    if request.method != "POST":
        raise HTTPException(405, headers={"Allow": "POST"})
    answer = await ask(route, *await read(request, seconds), seconds)
    return _response(answer, request, seconds)


async def ask(route: Route, body: bytes, caller: Caller, seconds: float) -> Answer:
    """The answer of a model in service. Raises `Refused` and `ClientLeft`."""
    try:
        async with asyncio.timeout_at(caller.until):
            return await route(body, caller)
    except InputError as error:  # no other: their messages may quote the customer
        raise Refused(422, str(error)) from None
    except TimeoutError:
        raise Refused(504, f"no answer within {seconds:g} s") from None


async def read(request: Request, seconds: float) -> tuple[bytes, Caller]:
    """The body, and who sent it and waits for so many seconds in all. Raises `Refused`."""
    until = asyncio.get_running_loop().time() + seconds
    caller = Caller(lambda: _left(request), until, request.headers.get)
    try:
        async with asyncio.timeout_at(caller.until):
            return await request.body(), caller
    except TimeoutError:
        raise Refused(408, f"the body was not sent within {seconds:g} s") from None


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _response(answer: Answer, request: Request, seconds: float) -> Response:
    if isinstance(answer, Stream):
        return _Events(answer, _to_the_end(answer, request.scope["path"], request.state.request_id, seconds))
    return as_json(answer)


def as_json(answer: Mapping[str, Any]) -> Response:
    """An answer at once."""
    return Response(to_json(answer), media_type="application/json")


class _Events(StreamingResponse):
    """A stream, ended by one event more where it fails, and given up where the client goes away."""

    def __init__(self, stream: Stream, events: AsyncIterator[bytes]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._stream.close()


async def _to_the_end(stream: Stream, path: str, request_id: str, seconds: float) -> AsyncIterator[bytes]:
    try:
        async for each in stream.events:
            yield each
    except TimeoutError:
        yield failure_event(path, 504, f"the text was not written within {seconds:g} s", request_id)
    except Exception as error:  # noqa: BLE001 - whatever it is, its message may quote the customer
        _log(error, request_id)
        yield failure_event(path, 500, UNFORESEEN, request_id)


def create_catalogue(
    models: Callable[[], list[dict[str, Any]]],
    spec: ServingSpec,
    relay: Callable[[str, str, bytes, Mapping[str, str]], Parts],
    check: Callable[[], None] = lambda: None,
) -> FastAPI:
    """The HTTP of the catalogue, with the pages of `serving.pages`.

    `models` gives service, name, version, task and more of each service. `relay(service, path, body, headers)` asks
    a service what came to one of OpenAI's routes. `check` and `models` raise `Refused` where nothing can be asked yet.
    """
    app = bare_app(spec.max_body_bytes)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        check()
        return {"status": "ok"}

    def seen(request: Request) -> list[dict[str, Any]]:
        return [each for each in models() if may_ask(request.scope, each["service"])]

    @app.get("/v1/models")
    async def list_models(request: Request) -> dict[str, Any]:
        known = seen(request)
        data = [model_entry(each["service"], each.get("created", 0)) for each in known]
        return {"object": "list", "models": known, "data": data}

    @app.post("/v1/completions")
    @app.post("/v1/chat/completions")
    async def hand_on(request: Request) -> Response:
        body, caller = await read(request, spec.request_timeout_s)
        entries = {each["service"]: each for each in models()}
        service = service_named(body, list(entries), partial(may_ask, request.scope))
        path = request.scope["path"].removeprefix("/v1/")
        headers = handed_on(entries[service], caller.header, request.state.request_id)
        return await relayed(relay(service, path, body, headers), caller)

    add_pages(app, seen)

    @app.api_route("/{path:path}", methods=METHODS)
    async def unknown(request: Request) -> Response:
        known = ", ".join(sorted(f"/v1/{each['service']}" for each in seen(request))) or "none yet"
        raise HTTPException(404, f"nothing answers here; services: {known}")

    return app


class Guard:
    """Wraps every request: counts the body's bytes, names the request, hides the text of an unforeseen error."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, named = request_name(scope)
        path, began, read = scope["path"], False, 0

        async def receive_counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._max_body_bytes:
                raise _BodyTooLarge
            return message

        async def send_named(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                if not named:
                    message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        # Serve mounts a service at its own path and Starlette would then see an empty one: route by the full path.
        scope = {**scope, "root_path": "", "state": {**scope.get("state", {}), "request_id": request_id}}
        try:
            await self._app(scope, receive_counted, send_named)
        except _BodyTooLarge:
            detail = f"the body is larger than {self._max_body_bytes} bytes"
            await failure(path, 413, detail, {"Connection": "close"}, request_id)(scope, receive, send_named)
        except Exception as error:  # noqa: BLE001 - whatever it is, its message may quote the customer
            _log(error, request_id)
            if not began:
                await failure(path, 500, UNFORESEEN, None, request_id)(scope, receive, send_named)


class _BodyTooLarge(Exception):
    pass


def bare_app(max_body_bytes: int) -> FastAPI:
    """An application without routes, whose errors are those of `serving.failures`."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(Guard, max_body_bytes=max_body_bytes)

    async def http_problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        field = error.field if isinstance(error, Refused) else None
        made = (error.status_code, error.detail, error.headers, request.state.request_id, field)
        return failure(request.scope["path"], *made)

    async def left(_: Request, __: Exception) -> Response:
        return Response(status_code=LEFT)

    app.add_exception_handler(ClientLeft, left)
    app.add_exception_handler(HTTPException, http_problem)  # Starlette's, so that its own 404 and 405 are meant too
    return app


def _log(error: Exception, request_id: str) -> None:
    """Where it was raised, without its message."""
    frames = "".join(traceback.format_tb(error.__traceback__)[-3:])
    logger.error("request %s failed with %s\n%s", request_id, type(error).__name__, frames)
