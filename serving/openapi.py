"""The OpenAPI (3.1) of the services as they are: made of the entries of GET /v1/models, see `serving.forms`."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from serving import openai_schema
from serving.failures import OPENAI, PROBLEM
from serving.forms import Entry, Form, Schema, forms_of, schema_of
from serving.openai_schema import Error, Listed, Models
from serving.service import VERSION

DESCRIPTION = (
    "What runs here. An answer never repeats the text of a request where it refuses it: errors are one line that names "
    "the field and the reason."
)
PROBLEM_SCHEMA: Schema = {
    "type": "object",
    "description": "RFC 9457",
    "properties": {
        "type": {"const": "about:blank"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "the reason, in one line"},
        "request_id": {"type": "string", "description": "X-Request-Id of the request, or one that it got"},
    },
    "required": ["type", "title", "status", "detail"],
}
HEALTHY: Schema = {"type": "object", "properties": {"status": {"const": "ok"}}, "required": ["status"]}
REASONS = {
    400: "The body is no JSON, or JSON that two readers may understand differently",
    401: "API keys are asked for, and none that holds came along",
    403: "The API key may not ask this service",
    404: "No service has this name",
    408: "The body was not sent in time",
    413: "The body is too large",
    422: "A field of the body cannot be answered",
    429: "Too much waits already, or the API key has asked as often as it may; Retry-After says when to ask again",
    500: "Something failed; quote the request id",
    503: "Nothing answers yet; ask again",
    504: "The answer took too long",
}
OF_READING = (401, 429, 503)
JSON = "application/json"


def program_version() -> str:
    """Of this program; a copy of the repository that is not installed has none."""
    try:
        return importlib.metadata.version("slimcart")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def document(listed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The OpenAPI of the services that GET /v1/models lists."""
    entries = [Entry.model_validate(each) for each in listed]
    forms = {each.service: forms_of(each) for each in entries}
    paths = {path: each for entry in entries for path, each in _of_service(entry, forms[entry.service]).items()}
    catalogue = {"name": "catalogue", "description": "All services of this address."}
    return {
        "openapi": "3.1.0",
        "info": {"title": "slimcart", "version": program_version(), "description": DESCRIPTION},
        "tags": [*({"name": each.service, "description": _described(each)} for each in entries), catalogue],
        "paths": {**paths, **_of_catalogue(forms)},
        "security": [{}, {"key": []}],  # no key, where none is asked for
        "components": {
            "schemas": {"Problem": PROBLEM_SCHEMA, "OpenAiError": schema_of(Error)},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "an API key"}},
        },
    }


def _of_service(entry: Entry, forms: Mapping[str, Form]) -> dict[str, Any]:
    service, version = entry.service, _version(entry)
    root = f"/v1/{service}"
    asked = {f"{root}/{below}".rstrip("/"): form for below, form in forms.items()}
    models = _got(f"{root}/models", service, "The service, as OpenAI lists it", schema_of(Models))
    return {path: _posted(path, service, form, [version]) for path, form in asked.items()} | {f"{root}/models": models}


def _version(entry: Entry) -> dict[str, Any]:
    known = [entry.version, *([entry.candidate.version] if entry.candidate else [])]
    said = "the version that is to answer; without it the one whose turn it is"
    return {"name": VERSION, "in": "header", "schema": {"type": "string", "enum": known}, "description": said}


def _of_catalogue(forms: Mapping[str, Mapping[str, Form]]) -> dict[str, Any]:
    """What lies below services is OpenAI's, and the catalogue hands it on."""
    answering: dict[str, list[str]] = {}
    for service, known in forms.items():
        for below in filter(None, known):
            answering.setdefault(below, []).append(service)
    paths = {
        f"/v1/{below}": _posted(f"/v1/{below}", "catalogue", openai_schema.forms(services)[below])
        for below, services in answering.items()
    }
    return {
        **paths,
        "/v1/models": _got("/v1/models", "catalogue", "What runs", schema_of(Listed)),
        "/healthz": _got("/healthz", "catalogue", "Whether all services answer", HEALTHY),
    }


def _described(entry: Entry) -> str:
    kind = "" if entry.kind == "single" else f", {entry.kind}"
    limits = f"{entry.limits.max_inputs} inputs and {entry.limits.max_body_bytes} bytes a request"
    return f"{entry.name}, version {entry.version} ({entry.task}{kind}); at most {limits}."


def _posted(path: str, tag: str, form: Form, headers: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    answer: dict[str, Any] = {JSON: {"schema": form.answer}}
    if form.events:
        answer["text/event-stream"] = {"schema": _event(form.events)}
    operation = {
        "operationId": _id("post", path),
        "tags": [tag],
        "summary": form.summary,
        "parameters": list(headers),
        "requestBody": {"required": True, "content": {JSON: {"schema": form.body, "example": form.asked}}},
        "responses": {"200": {"description": "The answer", "content": answer}, **_failures(path)},
    }
    return {"post": operation}


def _got(path: str, tag: str, summary: str, answer: Schema) -> dict[str, Any]:
    operation = {"operationId": _id("get", path), "tags": [tag], "summary": summary}
    responses = {"200": {"description": "The answer", "content": {JSON: {"schema": answer}}}}
    return {"get": {**operation, "responses": {**responses, **_failures(path, OF_READING)}}}


def _event(description: str) -> Schema:
    """One event of a stream, as OpenAPI 3.2 describes them."""
    data = {"type": "string", "contentMediaType": JSON}
    return {"type": "object", "description": description, "properties": {"data": data}, "required": ["data"]}


def _id(method: str, path: str) -> str:
    return "_".join([method, *path.removeprefix("/v1").strip("/").split("/")])


def _failures(path: str, statuses: Sequence[int] = tuple(REASONS)) -> dict[str, Any]:
    """As `serving.failures` words them: OpenAI's routes answer 400 in place of 422, and their bodies name a service."""
    is_openai = bool(OPENAI.fullmatch(path))
    kind, name = (JSON, "OpenAiError") if is_openai else (PROBLEM, "Problem")
    content = {kind: {"schema": {"$ref": f"#/components/schemas/{name}"}}}
    unknown = HTTPStatus.UNPROCESSABLE_ENTITY if is_openai else HTTPStatus.NOT_FOUND
    told = [status for status in statuses if status != unknown]
    return {str(status): {"description": REASONS[status], "content": content} for status in told}
