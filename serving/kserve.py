"""KServe's Open Inference Protocol, version 2: a service is a model, inputs and predictions are tensors in JSON.

    GET  /v2, /v2/health/live, /v2/health/ready, /v2/models/<service>, /v2/models/<service>/ready
    POST /v2/models/<service>/infer

    {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [2], "data": ["...", "..."]}], "parameters": {...}}
    -> {"model_name", "model_version", "outputs": [{"name": "label", "datatype": "BYTES", "shape": [2], "data": [...]},
       {"name": "score", "datatype": "FP64", ...}]}

The texts of pairs stand in two tensors, `text` and `text_pair`; other inputs, such as attributes, in one tensor `json`,
each as JSON. `parameters` are the other fields of the service's body. What a prediction says becomes one tensor for
each of its fields; null is an empty text, and an object is JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from configs.schema.serving import ServingSpec
from serving.endpoint import as_json, bare_app, read
from serving.failures import KSERVE
from serving.platforms import predictions
from serving.questions import listed, read_body
from serving.service import Refused, to_json
from serving.services import Loaded, Services

BINARY = ("binary_data", "binary_data_output", "binary_data_size")  # of the protocol's binary extension
BINARY_HEADER = "inference-header-content-length"
LIVE, READY = HEALTH = ("/v2/health/live", "/v2/health/ready")
JSON = "json"  # name of the tensor whose elements are inputs of any form
DATATYPES = {"BOOL": (bool,), "INT64": (int,), "FP64": (int, float)}  # whatever else there is, is BYTES


class Tensor(BaseModel):
    """An input."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, JsonValue] = {}
    data: list[JsonValue]


class Wanted(BaseModel):
    """An output that is asked for."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    parameters: dict[str, JsonValue] = {}


class Inference(BaseModel):
    """The body of a request."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: str | None = Field(default=None, description="a text")
    parameters: dict[str, JsonValue] = Field(
        default={}, description="an object of fields of the request, such as scores or max_tokens"
    )
    inputs: list[Tensor] = Field(
        min_length=1, description="a list of tensors, each with name, datatype, shape and data, and parameters at most"
    )
    outputs: list[Wanted] = Field(default=[], description="a list of objects with name, and parameters at most")


def create_kserve(services: Services, spec: ServingSpec, version: str) -> FastAPI:
    """The routes of the protocol; `version` is that of this program."""
    app = bare_app(spec.max_body_bytes)

    @app.get("/v2")
    async def server() -> dict[str, Any]:
        return {"name": "slimcart", "version": version, "extensions": []}

    @app.get(LIVE)
    async def live() -> dict[str, bool]:
        services.check_progress()
        return {"live": True}

    @app.get(READY)
    async def ready() -> dict[str, bool]:
        services.check()
        return {"ready": True}

    @app.get("/v2/models/{name}")
    @app.get("/v2/models/{name}/versions/{number}")
    async def model(name: str, number: str | None = None) -> dict[str, Any]:
        return _metadata(name, _model(services, name, number))

    @app.get("/v2/models/{name}/ready")
    @app.get("/v2/models/{name}/versions/{number}/ready")
    async def model_ready(name: str, number: str | None = None) -> dict[str, Any]:
        _model(services, name, number)
        services.check_progress()
        return {"name": name, "ready": True}

    @app.post("/v2/models/{name}/infer")
    @app.post("/v2/models/{name}/versions/{number}/infer")
    async def infer(request: Request, name: str, number: str | None = None) -> Response:
        loaded = _model(services, name, number)
        if BINARY_HEADER in request.headers:
            raise Refused(400, f"tensors in binary form are not read here; send JSON, without {BINARY_HEADER}")
        body, caller = await read(request, spec.request_timeout_s)
        asked = read_body(body, Inference, "an object with inputs")
        parameters = _without_binary(asked.parameters)
        given = (_rows(asked.inputs, loaded), parameters, "tensors", caller, spec.request_timeout_s)
        outputs = _chosen(_tensors(await predictions(loaded.model, *given)), asked.outputs)
        named = {"id": asked.id} if asked.id is not None else {}
        return as_json({"model_name": name, "model_version": loaded.release.version, **named, "outputs": outputs})

    return app


def model_of(path: str) -> str | None:
    """The model that a path of the protocol names, whether it is there or not."""
    match path.split("/", 4):
        case ["", "v2", "models", name, *_]:
            return name
    return None


def is_route(path: str) -> bool:
    """Whether a path is one of the protocol."""
    return bool(KSERVE.fullmatch(path))


def _model(services: Services, name: str, version: str | None) -> Loaded:
    """Raises `Refused`."""
    loaded = services.loaded(name)
    if version not in (None, loaded.release.version):
        raise Refused(404, f"this model has one version here: {loaded.release.version}", "version")
    return loaded


def _metadata(name: str, loaded: Loaded) -> dict[str, Any]:
    texts = [{"name": each, "datatype": "BYTES", "shape": [-1]} for each in _texts(loaded)]
    outputs = [
        {"name": each["name"], "datatype": each["datatype"], "shape": [-1]} for each in _tensors([loaded.prediction])
    ]
    return {
        "name": name,
        "versions": [loaded.release.version],
        "platform": f"slimcart_{loaded.bundle.runtime}",
        "inputs": texts,
        "outputs": outputs,
    }


def _texts(loaded: Loaded) -> tuple[str, ...]:
    return ("text", "text_pair") if loaded.bundle.pairs else ("text",)


def _rows(tensors: Sequence[Tensor], loaded: Loaded) -> list[Any]:
    """The inputs of a service. Raises `Refused`."""
    found = {each.name: _elements(each, index) for index, each in enumerate(tensors)}
    names = _texts(loaded)
    if len(found) < len(tensors) or found.keys() not in ({*names}, {JSON}):
        raise Refused(422, f"inputs must be {listed(names)}, each a tensor, or the tensor {JSON} alone", "inputs")
    if JSON in found:
        return [_parsed(each, index) for index, each in enumerate(found[JSON])]
    if len(names) == 1:
        return found["text"]
    if len({len(each) for each in found.values()}) > 1:
        raise Refused(422, f"the tensors {listed(names)} have different lengths", "inputs")
    return [dict(zip(names, each, strict=True)) for each in zip(*(found[name] for name in names), strict=True)]


def _elements(tensor: Tensor, index: int) -> list[str]:
    """The texts of a tensor of one column. Raises `Refused`."""
    where = f"tensor {index}"
    if any(said != ("content_type", "str") for said in _without_binary(tensor.parameters).items()):
        raise Refused(422, f"{where}: its parameters are not known here; leave them out", "inputs")
    if tensor.datatype != "BYTES":
        raise Refused(422, f"{where}: its datatype must be BYTES", "inputs")
    data = [part for each in tensor.data for part in (each if isinstance(each, list) else [each])]
    if not all(isinstance(each, str) for each in data):
        raise Refused(422, f"{where}: its data must be texts", "inputs")
    if len(tensor.shape) not in (1, 2) or math.prod(tensor.shape[1:]) != 1 or tensor.shape[0] != len(data):
        raise Refused(422, f"{where}: its shape must be [{len(data)}] or [{len(data)}, 1], as its data are", "inputs")
    return [str(each) for each in data]


def _parsed(text: str, index: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Refused(422, f"input {index} of the tensor {JSON} is not JSON", "inputs") from None


def _without_binary(parameters: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Parameters but those that decline the binary form. Raises `Refused` where one asks for it."""
    if any(parameters.get(name) for name in BINARY):
        raise Refused(422, f"tensors are JSON here; leave out {', '.join(BINARY)}", "parameters")
    return {name: said for name, said in parameters.items() if name not in BINARY}


def _tensors(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A tensor for each field of the predictions."""
    names = dict.fromkeys(name for each in found for name in each)
    return [_tensor(name, [each.get(name) for each in found]) for name in names]


def _tensor(name: str, values: Sequence[Any]) -> dict[str, Any]:
    datatype = next((each for each, kinds in DATATYPES.items() if all(type(said) in kinds for said in values)), "BYTES")
    data = list(values) if datatype != "BYTES" else [_in_words(said) for said in values]
    return {"name": name, "datatype": datatype, "shape": [len(data)], "data": data}


def _in_words(said: Any) -> str:
    if said is None or isinstance(said, str):
        return said or ""
    return to_json(said).decode()


def _chosen(tensors: Sequence[dict[str, Any]], wanted: Sequence[Wanted]) -> list[dict[str, Any]]:
    """The outputs that are asked for, all where none is. Raises `Refused`."""
    if not wanted:
        return list(tensors)
    by_name = {each["name"]: each for each in tensors}
    for each in wanted:
        if each.name not in by_name or _without_binary(each.parameters):
            raise Refused(422, f"outputs must be of {listed(list(by_name))}, without parameters", "outputs")
    return [by_name[each.name] for each in wanted]
