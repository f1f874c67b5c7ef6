"""`python -m serving.http` as its users meet it: real processes, asked over HTTP."""

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import requests
from fastapi.testclient import TestClient

from configs.schema.serving import ServingSpec
from serving.bundle import bundle_digest
from serving.cascade import join
from serving.endpoint import create_app
from serving.http import main
from serving.platforms import Vertex
from serving.reply import Replies, Templates, with_replies
from serving.runtime import load_bundle
from serving.service import Caller, Refused, Release, Stream, put_in_service
from serving.services import Admitting, Services
from serving.site import Site
from tests.tiny import bundles
from tests.tiny.bundles import LABELS, write_tiny_bundle
from tests.tiny.decoders import write_tiny_decoder
from tests.tiny.http import Process, ended, ready, started
from tests.tiny.services import events

pytestmark = pytest.mark.slow
SECRET = "my-card-is-4111"
SCRIPT = b"a\n says hello."  # what follows the input "a"
LIMITS = {"max_inputs": 4, "max_body_bytes": 4096}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("http")
    write_tiny_bundle(made / "intent", seed=1, attributes=True)
    write_tiny_bundle(made / "second", seed=2)
    write_tiny_bundle(made / "pairs", pairs=True)
    join(made / "triage", made / "intent", made / "second", 0.9)
    templates = {label: [f"{label} of {{{{Site}}}}"] for label in LABELS}
    with_replies(made / "second", made / "reply", Replies(Templates(fields=[], templates=templates), 0.0), {})
    write_tiny_decoder(made / "writer", SCRIPT)
    write_tiny_decoder(made / "talk", template="{% for each in messages %}{{ each.content }}{% endfor %}")
    return made


@pytest.fixture(scope="module")
def many(folder: Path) -> Iterator[Process]:
    """Services of every task and kind in one process."""
    names = ["pairs", "triage", "reply", "writer", "talk"]
    limits = [f"--{name.replace('_', '-')}={value}" for name, value in LIMITS.items()]
    popen = started(f"shop={folder / 'intent'}", *(str(folder / name) for name in names), *limits)
    try:
        yield ready(popen, 1 + len(names))
    finally:
        ended(popen)


def test_a_service_answers_as_its_bundle_does(many: Process, folder: Path):
    texts = ["where is my order", "refund now", ""]
    answer = many.post("/v1/shop", {"inputs": texts}).json()
    version = bundle_digest(folder / "intent")[:12]
    assert answer == {
        "model": {"name": "tiny", "version": version},
        "predictions": load_bundle(folder / "intent").predict(texts),
    }
    cascade = many.post("/v1/triage", {"inputs": texts, "scores": True}).json()["predictions"]
    assert cascade == load_bundle(folder / "triage").predict(texts, all_scores=True)
    (reply,) = many.post("/v1/reply", {"inputs": ["refund"], "fields": {"Site": "us"}}).json()["predictions"]
    assert reply["text"] == f"{reply['intent']} of us"
    (text,) = many.post("/v1/writer", {"inputs": ["a"]}).json()["predictions"]
    assert text == {"text": " says hello.", "finish_reason": "stop"}


def test_texts_come_as_they_are_written(many: Process):
    came = events(many.post("/v1/writer", {"inputs": ["a"], "stream": True}))
    assert "".join(each["text"] for each in came) == " says hello." and came[-1]["finish_reason"] == "stop"


def test_openais_client_asks_a_service_and_the_catalogue(many: Process):
    for base in ("/v1/writer", "/v1"):
        client = openai.OpenAI(base_url=many.url + base, api_key="none", max_retries=0, timeout=15)
        assert "writer" in [each.id for each in client.models.list()]
        assert client.completions.create(model="writer", prompt="a").choices[0].text == " says hello."
        chunks = client.completions.create(model="writer", prompt="a", stream=True)
        assert "".join(each.choices[0].text for each in chunks) == " says hello."
    messages: list[Any] = [{"role": "user", "content": "hi"}]
    assert client.chat.completions.create(model="talk", messages=messages, max_tokens=3).usage
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="unheard", prompt="a")


def test_the_catalogue_lists_the_services(many: Process):
    listed = many.get("/v1/models").json()
    names = ["shop", "pairs", "triage", "reply", "writer", "talk"]
    assert [each["service"] for each in listed["models"]] == [each["id"] for each in listed["data"]] == names
    assert listed["models"][0]["labels"] == LABELS
    assert [each["service"] for each in listed["models"] if each["pairs"]] == ["pairs"]
    assert listed["models"][0]["attributes"] and not listed["models"][1]["attributes"]
    assert many.get("/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/shop", f'{{"inputs": ["{SECRET}"'),
        ("POST", "/v1/shop", json.dumps({"inputs": [SECRET] * 5})),
        ("POST", "/v1/shop", json.dumps({"inputs": [SECRET], SECRET: 1})),
        ("POST", "/v1/shop", json.dumps({"inputs": [SECRET * 1000]})),
        ("POST", "/v1/shop", json.dumps({"inputs": [{"a": {}}]})),
        ("GET", "/v1/shop", None),
        ("POST", "/v1/shop/completions", "{}"),
        ("POST", f"/v1/shop/{SECRET}", "{}"),
    ],
)
def test_a_refusal_is_that_of_a_service_on_serve(many: Process, folder: Path, method: str, path: str, body: str | None):
    spec = ServingSpec.model_validate(LIMITS)
    model = put_in_service("shop", Release(bundle=str(folder / "intent"), name="tiny", version="1"), spec)
    client = TestClient(create_app("shop", spec, lambda: model), raise_server_exceptions=False)
    wanted = client.request(method, path, content=body, headers={"X-Request-Id": "7"})
    got = requests.request(method, many.url + path, data=body, headers={"X-Request-Id": "7"}, timeout=15)
    assert (got.status_code, got.json()) == (wanted.status_code, wanted.json())
    assert got.headers["content-type"] == wanted.headers["content-type"] and SECRET not in got.text


def test_what_no_service_has_is_not_found(many: Process):
    answer = many.get("/v1/nothing")
    assert answer.status_code == 404 and "/v1/shop" in answer.json()["detail"]
    answer = many.post("/invocations", {"inputs": ["a"]})
    assert answer.status_code == 404 and "6 run; run one" in answer.json()["detail"]


def tensor(name: str, data: list[Any], **fields: Any) -> dict[str, Any]:
    return {"name": name, "datatype": "BYTES", "shape": [len(data)], "data": data, **fields}


def test_kserve_learns_what_runs(many: Process, folder: Path):
    assert many.get("/v2").json().keys() == {"name", "version", "extensions"}
    assert many.get("/v2/health/live").json() == {"live": True}
    assert many.get("/v2/health/ready").json() == {"ready": True}
    assert many.get("/v2/models/pairs/ready").json() == {"name": "pairs", "ready": True}
    version = bundle_digest(folder / "pairs")[:12]
    said = many.get(f"/v2/models/pairs/versions/{version}").json()
    assert said == many.get("/v2/models/pairs").json()
    assert said == {
        "name": "pairs",
        "versions": [version],
        "platform": "slimcart_onnxruntime",
        "inputs": [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in ("text", "text_pair")],
        "outputs": [
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
            {"name": "score", "datatype": "FP64", "shape": [-1]},
        ],
    }
    reply = many.get("/v2/models/reply").json()["outputs"]
    assert {each["name"]: each["datatype"] for each in reply} == {
        "text": "BYTES",
        "intent": "BYTES",
        "score": "FP64",
        "handover": "BOOL",
        "reason": "BYTES",
    }


def test_kserve_gets_predictions_as_tensors(many: Process, folder: Path):
    texts = ["where is my order", "refund now"]
    body = {"id": "7", "inputs": [tensor("text", texts)], "parameters": {"scores": True}}
    answer = many.post("/v2/models/shop/infer", body).json()
    assert (answer["model_name"], answer["id"]) == ("shop", "7")
    expected = load_bundle(folder / "intent").predict(texts, all_scores=True)
    label, score, scores = answer["outputs"]
    assert label == tensor("label", [each["label"] for each in expected])
    assert score == tensor("score", [each["score"] for each in expected], datatype="FP64")
    assert [json.loads(each) for each in scores["data"]] == [each.get("scores") for each in expected]


def test_kserve_gives_inputs_of_every_form(many: Process):
    pair = [tensor("text", [["order"]], shape=[1, 1]), tensor("text_pair", ["now"])]
    body = {"inputs": pair, "outputs": [{"name": "label", "parameters": {"binary_data": False}}]}
    (label,) = many.post("/v2/models/pairs/infer", body).json()["outputs"]
    (wanted,) = many.post("/v1/pairs", {"inputs": [{"text": "order", "text_pair": "now"}]}).json()["predictions"]
    assert label == tensor("label", [wanted["label"]])
    slots = {"order": "refund", "now": 4}
    answer = many.post("/v2/models/shop/infer", {"inputs": [tensor("json", [json.dumps(slots)])]}).json()
    (wanted,) = many.post("/v1/shop", {"inputs": [slots]}).json()["predictions"]
    assert [each["data"] for each in answer["outputs"]] == [[wanted["label"]], [wanted["score"]]]
    text, reason = many.post("/v2/models/writer/infer", {"inputs": [tensor("text", ["a"])]}).json()["outputs"]
    assert (text["data"], reason["data"]) == ([" says hello."], ["stop"])


@pytest.mark.parametrize(
    ("service", "body", "reason"),
    [
        ("shop", {"inputs": [SECRET]}, "inputs must be a list of tensors"),
        ("shop", {"inputs": [tensor(SECRET, ["a"])]}, "inputs must be text, each a tensor"),
        ("shop", {"inputs": [tensor("text", ["a"])] * 2}, "inputs must be text, each a tensor"),
        ("shop", {"inputs": [tensor("text", [1], datatype="FP32")]}, "datatype must be BYTES"),
        ("shop", {"inputs": [tensor("text", [1])]}, "its data must be texts"),
        ("shop", {"inputs": [tensor("text", ["a", "b"], shape=[1])]}, "shape must be [2] or [2, 1]"),
        ("shop", {"inputs": [tensor("text", ["a"], parameters={SECRET: 1})]}, "its parameters are not known"),
        ("shop", {"inputs": [tensor("text", ["a"] * 5)]}, "send at most 4 in one request"),
        ("shop", {"inputs": [tensor("json", [f"{{{SECRET}"])]}, "input 0 of the tensor json is not JSON"),
        ("shop", {"inputs": [tensor("json", ['{"a": NaN}'])]}, "NaN or an infinite number"),
        (
            "shop",
            {"inputs": [tensor("text", ["a"])], "outputs": [{"name": SECRET}]},
            "outputs must be of label and score",
        ),
        ("shop", {"inputs": [tensor("text", ["a"])], "parameters": {SECRET: 1}}, "unknown key"),
        ("shop", {"inputs": [tensor("text", ["a"])], "parameters": {"inputs": [SECRET]}}, "must not hold inputs"),
        ("shop", {"inputs": [tensor("text", ["a"])], "parameters": {"binary_data_output": True}}, "tensors are JSON"),
        ("pairs", {"inputs": [tensor("text", ["a"]), tensor("text_pair", [])]}, "different lengths"),
        ("writer", {"inputs": [tensor("text", ["a"])], "parameters": {"stream": True}}, "leave stream out"),
    ],
)
def test_kserve_is_refused_in_its_words(many: Process, service: str, body: dict[str, Any], reason: str):
    answer = many.post(f"/v2/models/{service}/infer", body)
    assert answer.status_code == 400 and list(answer.json()) == ["error"]
    assert reason in answer.json()["error"] and SECRET not in answer.text


def test_kserve_finds_no_other_model_version_or_form(many: Process):
    assert many.get(f"/v2/models/{SECRET}").json() == {
        "error": "no model has this name; models: shop, pairs, triage, reply, writer, talk"
    }
    assert many.get("/v2/models/shop/versions/2").status_code == 404
    assert many.get("/v2/repository").json() == {"error": "Not Found"}
    answer = many.post("/v2/models/shop/infer", {}, headers={"Inference-Header-Content-Length": "2"})
    assert answer.status_code == 400 and "binary form" in answer.json()["error"]


def test_nothing_is_ready_before_all_bundles_are_loaded(folder: Path):
    spec = ServingSpec.model_validate({})
    services = Services({"intent": folder / "intent"}, spec)
    client = TestClient(Site(services, spec, Vertex(health="/health", predict="/predict")))
    asked = ["/healthz", "/ping", "/health", "/v1/models", "/v2/health/ready", "/v2/models/intent/ready"]
    posted = ["/v1/intent", "/invocations", "/predict", "/v2/models/intent/infer", "/v1/completions"]
    answers = [client.get(path) for path in asked] + [client.post(path, json={"inputs": ["a"]}) for path in posted]
    assert {(each.status_code, each.headers["retry-after"]) for each in answers} == {(503, "1")}
    assert client.get("/v2/health/live").status_code == 200
    asyncio.run(services.load())
    assert {client.get(path).status_code for path in asked} == {200}


def test_a_model_that_does_not_get_on_is_neither_live_nor_ready(folder: Path, monkeypatch: pytest.MonkeyPatch):
    spec = ServingSpec.model_validate({})
    services = Services({"intent": folder / "intent"}, spec)
    asyncio.run(services.load())
    monkeypatch.setattr(Admitting, "running_s", lambda _: 31.0)
    client = TestClient(Site(services, spec, Vertex()))
    for path in ("/v2/health/live", "/v2/health/ready", "/ping", "/healthz"):
        assert client.get(path).status_code == 503 and "not got on" in client.get(path).text


def test_a_damaged_bundle_is_refused_before_it_listens(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_tiny_bundle(tmp_path / "intent")
    with (tmp_path / "intent" / "model.onnx").open("ab") as file:
        file.write(b"x")
    assert main([str(tmp_path / "intent")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("intent: ") and "model.onnx" in line


def test_a_bundle_that_cannot_answer_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    nothing = {name: np.full_like(each, np.nan) for name, each in bundles.reference_weights(0).items()}
    monkeypatch.setattr(bundles, "reference_weights", lambda _: nothing)
    write_tiny_bundle(tmp_path / "intent")
    popen = started(str(tmp_path / "intent"))
    _, said = popen.communicate(timeout=30)
    assert popen.returncode == 1
    logged, line = said.splitlines()
    assert "listening" in logged and line.startswith("intent: ") and "cannot answer" in line


def test_a_taken_port_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main([str(folder / "intent"), "--port", str(taken.getsockname()[1])]) == 1
    assert "in use; choose another" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "environment", "reason"),
    [
        (["a", "--host", "0.0.0.0"], {}, "--host: '0.0.0.0' is not a loopback address"),
        (["a/intent", "b/intent"], {}, "b/intent: a/intent has the name 'intent' already; <name>=<bundle>"),
        (["models=a"], {}, "'models' is taken by a route of all services"),
        (["Big"], {}, "'Big' is no service name"),
        (["a", "--port", "70000"], {}, "--port: 70000 is no TCP port"),
        (["a", "--max-inputs", "none"], {}, "command line: max_inputs"),
        (["a", "--threads", "0"], {}, "command line: threads"),
        (["a", "--port", "80"], {"AIP_HTTP_PORT": "8080"}, "--port: 80, but AIP_HTTP_PORT is 8080"),
        (["a"], {"AIP_HTTP_PORT": "http"}, "AIP_HTTP_PORT: 'http' is no TCP port"),
        (["a", "b"], {"AIP_PREDICT_ROUTE": "/predict"}, "AIP_PREDICT_ROUTE: Vertex AI asks one service"),
        (["a"], {"AIP_PREDICT_ROUTE": "predict"}, "AIP_PREDICT_ROUTE: 'predict' is no path"),
        (["a"], {"AIP_PREDICT_ROUTE": "/v1/a"}, "AIP_PREDICT_ROUTE: '/v1/a' is taken"),
        (["a"], {"AIP_HEALTH_ROUTE": "/v2/health"}, "AIP_HEALTH_ROUTE: '/v2/health' is taken"),
    ],
)
def test_a_command_that_cannot_work_is_refused_in_one_line(
    arguments: list[str],
    environment: dict[str, str],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line


def test_more_requests_than_may_run_are_refused(folder: Path):
    """Those of streams count until they are closed."""
    spec = ServingSpec.model_validate({})
    writer = put_in_service("writer", Release(bundle=str(folder / "writer"), name="t", version="1"), spec)

    async def ask() -> None:
        route = Admitting(writer, 1).routes[""]
        caller = Caller(asyncio.Event().wait, asyncio.get_running_loop().time() + 15)
        body = b'{"inputs": ["a"], "stream": true}'
        stream = await route(body, caller)
        assert isinstance(stream, Stream)
        with pytest.raises(Refused, match="too many requests"):
            await route(body, caller)
        for _ in range(2):
            stream.close()
        for _ in range(2):
            assert not isinstance(await route(b'{"inputs": ["a"]}', caller), Stream)

    asyncio.run(ask())
