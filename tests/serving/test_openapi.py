"""The published OpenAPI against what the services do, over HTTP."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import requests
from fastapi.testclient import TestClient
from jsonschema import Draft202012Validator

from configs.schema.kinds import KINDS
from configs.schema.serving import ServingSpec
from configs.schema.tasks import TASKS
from serving.forms import Entry, forms_of
from serving.openapi import document
from serving.platforms import Vertex
from serving.service import Release, put_in_service
from serving.services import Services
from serving.site import Site
from tests.tiny.bundles import LABELS
from tests.tiny.http import Process
from tests.tiny.site import LIMITS, SERVICES

pytestmark = pytest.mark.slow
OPERATIONS = {
    **{f"/v1/{service}": "post" for service in SERVICES},
    **{f"/v1/{service}/models": "get" for service in SERVICES},
    **{f"/v1/{below}completions": "post" for below in ("", "writer/", "talk/")},
    **{f"/v1/{below}chat/completions": "post" for below in ("", "talk/")},
    "/v1/models": "get",
    "/healthz": "get",
}
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,negative_data_rejection"
)


@pytest.fixture(scope="module")
def api(site: Process) -> dict[str, Any]:
    return site.get("/openapi.json").json()


def body_of(api: dict[str, Any], path: str) -> dict[str, Any]:
    return api["paths"][path]["post"]["requestBody"]["content"]["application/json"]


def test_every_route_that_answers_is_published(api: dict[str, Any]):
    assert {path: method for path, item in api["paths"].items() for method in item} == OPERATIONS
    assert api["openapi"] == "3.1.0"
    assert [each["name"] for each in api["tags"]] == [*SERVICES, "catalogue"]


@pytest.mark.parametrize("path", OPERATIONS)
def test_what_is_published_as_an_example_is_answered_as_published(api: dict[str, Any], site: Process, path: str):
    (operation,) = api["paths"][path].values()
    answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
    Draft202012Validator.check_schema(answer)
    if OPERATIONS[path] == "get":
        said = site.get(path)
    else:
        body = body_of(api, path)
        Draft202012Validator.check_schema(body["schema"])
        jsonschema.validate(body["example"], body["schema"], Draft202012Validator)
        said = site.post(path, body["example"])
    assert said.status_code == 200, said.text
    jsonschema.validate(said.json(), answer, Draft202012Validator)


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_published_below_a_service_is_what_its_model_answers(site: Process, site_folder: Path, service: str):
    (entry,) = [each for each in site.get("/v1/models").json()["models"] if each["service"] == service]
    release = Release(bundle=str(site_folder / service), name="tiny", version="1")
    routes = put_in_service(service, release, ServingSpec.model_validate({})).routes
    published = forms_of(Entry.model_validate(entry))
    assert published.keys() <= routes.keys()
    assert "chat/completions" in published or not entry["conversations"]


@pytest.mark.parametrize("service", SERVICES)
def test_predictions_hold_what_the_record_says(site: Process, api: dict[str, Any], service: str):
    (entry,) = [each for each in site.get("/v1/models").json()["models"] if each["service"] == service]
    record = KINDS.get(entry["kind"]) or TASKS[entry["task"]]
    said = {*record.answers, "ms", *(name for each in record.further_answers.values() for name in each)}
    (operation,) = api["paths"][f"/v1/{service}"].values()
    answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
    published = answer["properties"]["predictions"]["items"]["properties"]
    unchecked = {"held", "reason"} if entry["kind"] == "single" and not entry["checked"] else set()
    assert published.keys() == said - unchecked


def test_a_body_is_published_with_the_labels_and_limits_of_its_service(api: dict[str, Any]):
    intent, writer = body_of(api, "/v1/intent")["schema"], body_of(api, "/v1/writer")["schema"]
    assert intent["properties"]["inputs"]["maxItems"] == LIMITS["max_inputs"]
    assert intent["properties"].keys() == {"inputs", "scores", "details"} and not intent["additionalProperties"]
    assert writer["properties"]["max_tokens"]["maximum"] == 64
    assert writer["properties"]["style"]["enum"] == ["plain", "warm", None] and "length" not in writer["properties"]
    answer = api["paths"]["/v1/intent"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer["properties"]["predictions"]["items"]["properties"]["label"]["enum"] == LABELS


@pytest.mark.parametrize(
    ("path", "body", "taken"),
    [
        ("/v1/intent", {"inputs": ["a"] * 4}, True),
        ("/v1/intent", {"inputs": ["a"] * 5}, False),
        ("/v1/intent", {"inputs": [{"a": "b"}]}, False),
        ("/v1/intent", {"inputs": []}, False),
        ("/v1/intent", {"inputs": ["a"], "scores": 1}, False),
        ("/v1/intent", {"inputs": ["a"], "more": 1}, False),
        ("/v1/pairs", {"inputs": [["a", "b"], {"text": {"a": 1}, "text_pair": [["b", [1, None]]]}]}, True),
        ("/v1/pairs", {"inputs": ["a"]}, False),
        ("/v1/pairs", {"inputs": [{"text": "a", "text_pair": "b", "c": "d"}]}, False),
        ("/v1/pairs", {"inputs": [["a", "b", "c"]]}, False),
        ("/v1/category", {"inputs": ["a", {"a": "b"}, [["a", 1.5]]]}, True),
        ("/v1/category", {"inputs": [{}]}, False),
        ("/v1/category", {"inputs": [{"a": True}]}, False),
        ("/v1/category", {"inputs": [["a"]]}, False),
        ("/v1/reply", {"inputs": ["a", "b"], "fields": [{"order_number": 1}, {"order_number": None}]}, True),
        ("/v1/reply", {"inputs": ["a"], "fields": {"order_number": True}}, False),
        ("/v1/writer", {"inputs": ["a"], "style": "warm", "stop": ["."], "max_tokens": 3}, True),
        ("/v1/writer", {"inputs": ["a"], "style": "cold"}, False),
        ("/v1/writer", {"inputs": ["a"], "length": "short"}, False),
        ("/v1/writer", {"inputs": ["a"], "stop": ["a", "b", "c", "d", "e"]}, False),
        ("/v1/writer", {"inputs": ["a"], "stop": ""}, False),
        ("/v1/writer", {"inputs": ["a"], "max_tokens": 65}, False),
        ("/v1/talk", {"inputs": ["a", [{"role": "user", "content": "a"}]], "max_tokens": 3}, True),
        ("/v1/talk", {"inputs": [{"messages": "a"}]}, False),
        ("/v1/talk", {"inputs": [{"messages": [{"role": "robot", "content": "a"}]}]}, False),
        ("/v1/writer/completions", {"model": "writer", "prompt": ["a"], "n": 1, "temperature": None}, True),
        ("/v1/writer/completions", {"model": "writer", "prompt": "a", "n": 2}, False),
        ("/v1/writer/completions", {"model": "writer", "prompt": "a", "top_k": -1}, False),
        ("/v1/writer/completions", {"model": "talk", "prompt": "a"}, False),
        ("/v1/writer/completions", {"model": "writer"}, False),
        ("/v1/completions", {"model": "intent", "prompt": "a"}, False),
    ],
)
def test_a_body_fits_its_schema_where_it_is_answered(
    api: dict[str, Any], site: Process, path: str, body: dict[str, Any], taken: bool
):
    fits = Draft202012Validator(body_of(api, path)["schema"]).is_valid(body)
    assert (fits, site.post(path, body).status_code == 200) == (taken, taken)


def test_a_stream_is_events_as_published(api: dict[str, Any], site: Process):
    answer = api["paths"]["/v1/writer"]["post"]["responses"]["200"]["content"]
    assert answer.keys() == {"application/json", "text/event-stream"}
    said = site.post("/v1/writer", {"inputs": ["a"], "stream": True})
    assert said.headers["content-type"].split(";")[0] == "text/event-stream"


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [("/v1/intent", {}, 422), ("/v1/writer/completions", {}, 400), ("/v1/completions", {"model": "intent"}, 404)],
)
def test_a_refusal_is_as_published(api: dict[str, Any], site: Process, path: str, body: dict[str, Any], status: int):
    said = site.post(path, body)
    published = api["paths"][path]["post"]["responses"][str(said.status_code)]["content"]
    ((kind, content),) = published.items()
    name = content["schema"]["$ref"].rpartition("/")[2]
    assert (said.status_code, said.headers["content-type"]) == (status, kind)
    jsonschema.validate(said.json(), api["components"]["schemas"][name], Draft202012Validator)


def test_entries_of_an_earlier_deployment_are_described_as_well():
    earlier = {"service": "intent", "name": "t", "version": "1", "task": "classify", "created": 7, "labels": LABELS}
    assert {"/v1/intent", "/v1/models"} <= document([earlier])["paths"].keys()


def test_where_nothing_runs_the_catalogue_alone_is_described():
    assert document([])["paths"].keys() == {"/v1/models", "/healthz"}


def test_nothing_is_described_before_all_bundles_are_loaded(site_folder: Path):
    spec = ServingSpec.model_validate({})
    services = Services({"intent": site_folder / "intent"}, spec)
    client = TestClient(Site(services, spec, Vertex()))
    assert client.get("/openapi.json").status_code == 503
    assert {client.get(path).status_code for path in ("/", "/docs")} == {200}
    asyncio.run(services.load())
    assert "/v1/intent" in client.get("/openapi.json").json()["paths"]


@pytest.mark.parallel
@pytest.mark.parametrize("service", ["intent", "pairs", "category", "reply", "writer", "talk"])
def test_schemathesis_finds_no_fault(site: Process, tmp_path: Path, service: str):
    """Generated bodies, those that fit and those that do not: no 5xx, and answers as published."""
    schemathesis = str(Path(sys.executable).with_name("schemathesis"))
    refusals = "[checks.negative_data_rejection]\nexpected-statuses = [400, 404, 413, 422]\n"
    (tmp_path / "schemathesis.toml").write_text(refusals, encoding="utf-8")
    chosen = ["--include-tag", service, "--checks", CHECKS, "--phases", "examples,coverage,fuzzing"]
    bounds = ["--seed", "7", "--max-examples", "100", "--generation-database", "none", "--no-color"]
    command = [schemathesis, "run", f"{site.url}/openapi.json", *chosen, *bounds]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    assert requests.get(f"{site.url}/healthz", timeout=15).json() == {"status": "ok"}
    assert site.popen.poll() is None
