"""The HTTP of a service and of the catalogue, as FastAPI applications that need no Ray.

Errors are `application/problem+json` (RFC 9457) and never repeat what the customer sent: FastAPI's own validation
error would. Bodies are counted as they arrive, whatever their Content-Length says.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import traceback
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from configs.schema.serving import ServingSpec
from serving.classifier import Prediction
from serving.inputs import InputError

PROBLEM = "application/problem+json"
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
logger = logging.getLogger("ray.serve")


class Question(BaseModel):
    """The body of a request."""

    model_config = ConfigDict(extra="forbid", strict=True)

    inputs: list[str | dict[str, JsonValue] | list[JsonValue]] = Field(min_length=1)  # the model checks their kind
    scores: bool = False
    details: bool = False


@dataclass(frozen=True)
class Answer:
    """The body of an answer; the predictions stand in the order of the inputs."""

    model: dict[str, str]
    predictions: list[Prediction]


def create_app(service: str, spec: ServingSpec, answer: Callable[[Question], Awaitable[Answer]]) -> FastAPI:
    """The HTTP of one service around `answer`, which raises `InputError` for an input that it refuses."""
    app = _bare_app(spec.max_body_bytes)

    @app.post(f"/v1/{service}")
    async def predict(request: Request) -> Response:
        question = None
        try:
            async with asyncio.timeout(spec.request_timeout_s):
                question = read_question(await request.body(), spec.max_inputs)
                answered = await answer(question)
        except InputError as error:  # no other: their messages may quote the customer
            raise HTTPException(422, str(error)) from None
        except TimeoutError:
            if question is None:
                raise HTTPException(408, f"the body was not sent within {spec.request_timeout_s:g} s") from None
            raise HTTPException(503, f"no answer within {spec.request_timeout_s:g} s", {"Retry-After": "1"}) from None
        content = _json({"model": answered.model, "predictions": answered.predictions})
        return Response(content, media_type="application/json")

    return app


def create_catalogue(models: Callable[[], list[dict[str, Any]]]) -> FastAPI:
    """The HTTP of the catalogue; `models` gives service, name, version, task and labels of each service."""
    app = _bare_app(max_body_bytes=0)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"models": models()}

    @app.api_route("/{path:path}", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
    async def unknown() -> Response:
        known = ", ".join(sorted(f"/v1/{each['service']}" for each in models())) or "none yet"
        raise HTTPException(404, f"nothing answers here; services: {known}")

    return app


def read_question(body: bytes, max_inputs: int) -> Question:
    """The parsed body; raises `HTTPException` whose detail holds positions and field names, never the text."""
    try:
        question = Question.model_validate_json(body)
    except ValidationError as error:
        raise HTTPException(*_explain(error)) from None
    if len(question.inputs) > max_inputs:
        raise HTTPException(422, f"{len(question.inputs)} inputs; send at most {max_inputs} in one request")
    return question


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None, request_id: str = "") -> Response:
    """An RFC 9457 answer."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    if request_id:
        body["request_id"] = request_id
    return Response(_json(body), status, dict(headers or {}), PROBLEM)


class Guard:
    """Wraps every request: counts the body's bytes, names the request, hides the text of an unforeseen error."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        header = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        # Serve's proxy names every request and sends the name back itself.
        named = bool(REQUEST_ID.fullmatch(header))
        request_id = header if named else uuid.uuid4().hex
        began, read = False, 0

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
            await problem(413, detail, {"Connection": "close"}, request_id)(scope, receive, send_named)
        except Exception as error:  # noqa: BLE001 - whatever it is, its message may quote the customer
            frames = "".join(traceback.format_tb(error.__traceback__)[-3:])
            logger.error("request %s failed with %s\n%s", request_id, type(error).__name__, frames)
            if not began:
                await problem(500, "something failed here; quote the request id", None, request_id)(
                    scope, receive, send_named
                )


class _BodyTooLarge(Exception):
    pass


def _bare_app(max_body_bytes: int) -> FastAPI:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(Guard, max_body_bytes=max_body_bytes)

    async def http_problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return problem(error.status_code, error.detail, error.headers, request.state.request_id)

    app.add_exception_handler(HTTPException, http_problem)  # Starlette's, so that its own 404 and 405 are meant too
    return app


def _explain(error: ValidationError) -> tuple[int, str]:
    """(status, detail) of the first fault; the detail shows only indices and our own field names of its `loc`."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return 400, f"the body is not JSON in UTF-8{_position(first['msg'])}"
    if first["type"] == "extra_forbidden":
        return 422, "the body holds an unknown key; known are inputs, scores and details"
    field, *rest = [*first["loc"], "", ""][:2]
    if field == "inputs" and isinstance(rest[0], int):
        return 422, f"input {rest[0]} is neither a text nor an object, as for pairs and attributes"
    if field == "inputs":
        return 422, "inputs must be a list of at least one input"
    if field in ("scores", "details"):
        return 422, f"{field} must be true or false"
    return 422, "the body must be an object with inputs"


def _position(message: str) -> str:
    match = re.search(r"line \d+ column \d+", message)
    return f": {match.group()}" if match else ""


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
