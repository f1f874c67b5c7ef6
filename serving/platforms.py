"""What container platforms ask of an image: routes and forms of their own before the same services.

    GET  /ping, POST /invocations                  Amazon SageMaker; bodies and answers are those of the service
    GET  $AIP_HEALTH_ROUTE                         Google Vertex AI
    POST $AIP_PREDICT_ROUTE                        {"instances": [...], "parameters": {...}} -> {"predictions": [...]}

These platforms name no service: a process with several refuses. `serving.kserve` names one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from configs.loader import UsageError
from configs.schema.serving import ServingSpec
from serving.endpoint import answered, as_json, ask, bare_app, read
from serving.questions import read_body
from serving.service import Caller, InService, Refused, Stream, to_json
from serving.services import Services

PING, INVOCATIONS = "/ping", "/invocations"
CATALOGUE = ("/docs", "/openapi.json", "/healthz", "/v1/models", "/v1/completions", "/v1/chat/completions")
OWN = (*CATALOGUE, PING, INVOCATIONS)
HEALTH = ("/healthz", PING)  # routes that say what Vertex AI wants to know
ROUTE = re.compile(r"/[\w.~:@/-]+")


class Vertex(NamedTuple):
    """What Vertex AI tells a container in its environment; None where it does not run there."""

    port: int | None = None
    health: str | None = None
    predict: str | None = None


class Instances(BaseModel):
    """The body of a prediction on Vertex AI."""

    model_config = ConfigDict(extra="forbid", strict=True)

    instances: list[JsonValue] = Field(min_length=1, description="a list of at least one input")
    parameters: dict[str, JsonValue] = Field(
        default_factory=dict, description="an object of fields of the request, such as scores or max_tokens"
    )


def vertex_of(environment: Mapping[str, str], services: Sequence[str]) -> Vertex:
    """The variables `AIP_...`. Raises `UsageError` where they cannot be obeyed."""
    port, health, predict = (environment.get(f"AIP_{name}") for name in ("HTTP_PORT", "HEALTH_ROUTE", "PREDICT_ROUTE"))
    if port is not None and not (port.isdecimal() and 1 <= int(port) <= 65535):
        raise UsageError(f"AIP_HTTP_PORT: {port!r} is no TCP port; set 1 to 65535, such as 8080")
    if predict is not None:
        if len(services) > 1:
            raise UsageError(f"AIP_PREDICT_ROUTE: Vertex AI asks one service, and {len(services)} are given; give one")
        _check_route("AIP_PREDICT_ROUTE", predict, services, OWN)
    if health is not None:
        _check_route("AIP_HEALTH_ROUTE", health, services, {*OWN, predict} - {*HEALTH})
    return Vertex(None if port is None else int(port), health, predict)


def routes_of(vertex: Vertex) -> set[str]:
    """The paths that `create_platforms` answers."""
    return {PING, INVOCATIONS, *filter(None, (vertex.health, vertex.predict))}


def health_of(vertex: Vertex) -> set[str]:
    """Those of them that say whether the process answers."""
    return {PING, *filter(None, (vertex.health,))}


def create_platforms(services: Services, spec: ServingSpec, vertex: Vertex) -> FastAPI:
    """The routes of SageMaker and of Vertex AI."""
    app = bare_app(spec.max_body_bytes)

    async def health() -> Response:
        services.check()
        return Response()

    for route in {PING, vertex.health or PING}:
        app.add_api_route(route, health, methods=["GET", "HEAD"])

    @app.post(INVOCATIONS)
    async def invoke(request: Request) -> Response:
        return await answered(request, services.only().model, "", spec.request_timeout_s)

    async def predict(request: Request) -> Response:
        model = services.only().model
        body, caller = await read(request, spec.request_timeout_s)
        asked = read_body(body, Instances, "an object with instances")
        given = (asked.instances, asked.parameters, "instances", caller, spec.request_timeout_s)
        return as_json({"predictions": await predictions(model, *given)})

    if vertex.predict:
        app.add_api_route(vertex.predict, predict, methods=["POST"])
    return app


async def predictions(
    model: InService,
    inputs: Sequence[Any],
    parameters: Mapping[str, Any],
    called: str,
    caller: Caller,
    seconds: float,
) -> list[Mapping[str, Any]]:
    """What a service predicts of inputs that a platform calls otherwise. Raises `Refused` and `ClientLeft`.

    `parameters` are the other fields of the service's body.
    """
    if "inputs" in parameters:
        raise Refused(422, f"parameters must not hold inputs; they stand in {called}", "parameters")
    try:
        body = to_json({"inputs": inputs, **parameters})
    except ValueError:
        raise Refused(400, "the body holds NaN or an infinite number, which JSON has not") from None
    answer = await ask(model.routes[""], body, caller, seconds)
    if isinstance(answer, Stream):
        answer.close()
        raise Refused(422, "this route answers at once; leave stream out", "parameters")
    return answer["predictions"]


def _check_route(variable: str, route: str, services: Sequence[str], taken: Sequence[str] | set[Any]) -> None:
    if not ROUTE.fullmatch(route):
        raise UsageError(f"{variable}: {route!r} is no path; set one such as /predict")
    below = [f"/v1/{service}" for service in services] + ["/v2"]
    if route in taken or any(route == each or route.startswith(f"{each}/") for each in below):
        raise UsageError(f"{variable}: {route!r} is taken by another route here; set one such as /predict")
