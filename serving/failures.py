"""How HTTP says that a request was not answered: as RFC 9457 wants it, on OpenAI's routes and KServe's as these do."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import Response
from starlette.types import Scope

from serving.service import event, to_json

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
PROBLEM = "application/problem+json"
UNFORESEEN = "something failed here; quote the request id"
OPENAI = re.compile(r"/v1/(?:[^/]+/)?(?:chat/)?(?:completions|embeddings)")  # no service has one of these names
KSERVE = re.compile(r"/v2(?:/.*)?")
CODES: Mapping[int, str] = {
    HTTPStatus.UNAUTHORIZED: "invalid_api_key",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_exceeded",
}  # OpenAI's


def request_name(scope: Scope) -> tuple[str, bool]:
    """The request's id, and whether it came with it: Serve's proxy names every request and sends the name back."""
    header = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
    named = bool(REQUEST_ID.fullmatch(header))
    return header if named else uuid.uuid4().hex, named


def problem_of(status: int, detail: str, request_id: str = "") -> dict[str, Any]:
    """The object of RFC 9457."""
    named = {"request_id": request_id} if request_id else {}
    return {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **named}


def openai_error(status: int, detail: str, field: str | None = None) -> dict[str, Any]:
    """The object that OpenAI's clients read; `field`: of the body, that is at fault."""
    kind = "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
    code = "model_not_found" if (status, field) == (HTTPStatus.NOT_FOUND, "model") else CODES.get(status)
    return {"error": {"message": detail, "type": kind, "param": field, "code": code}}


def failure(
    path: str,
    status: int,
    detail: str,
    headers: Mapping[str, str] | None = None,
    request_id: str = "",
    field: str | None = None,
) -> Response:
    """The answer to a request of `path` that fails."""
    is_openai = OPENAI.fullmatch(path)
    if not is_openai and not KSERVE.fullmatch(path):
        return Response(to_json(problem_of(status, detail, request_id)), status, dict(headers or {}), PROBLEM)
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:
        status = HTTPStatus.BAD_REQUEST  # these two tell no wrong value from a wrong body
    said = openai_error(status, detail, field) if is_openai else {"error": detail}
    return Response(to_json(said), status, dict(headers or {}), "application/json")


def failure_event(path: str, status: int, detail: str, request_id: str) -> bytes:
    """The last event of a stream that fails."""
    if OPENAI.fullmatch(path):
        return event(openai_error(status, detail))
    return event(problem_of(status, detail, request_id), "error")
