"""One service in one process, as SageMaker and Vertex AI run it."""

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from serving.runtime import load_bundle
from tests.tiny.bundles import write_tiny_bundle
from tests.tiny.http import Process, ended, ready, started

pytestmark = pytest.mark.slow
SECRET = "my-card-is-4111"
VERTEX = {"AIP_HEALTH_ROUTE": "/v1/endpoints/7/deployedModels/9", "AIP_PREDICT_ROUTE": "/v1/endpoints/7:predict"}
# What `python -m` runs, and then which libraries it has imported.
WATCHED = """
import sys
from serving.http import main
status = main()
print([name for name in ("ray", "torch", "transformers", "mlflow", "pandas") if name in sys.modules])
sys.exit(status)
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("platforms") / "intent"
    write_tiny_bundle(made, attributes=True)
    return made


@pytest.fixture(scope="module")
def alone(bundle: Path) -> Iterator[Process]:
    """One service, as a container platform runs it; the last test ends it."""
    popen = started(str(bundle), "--host", "0.0.0.0", "--open", code=["-c", WATCHED], **VERTEX)
    try:
        process = ready(popen)
        yield Process(process.url.replace("0.0.0.0", "127.0.0.1"), popen)
    finally:
        ended(popen)


def test_sagemaker_asks_the_only_service(alone: Process, bundle: Path):
    answer = alone.get("/ping")
    assert (answer.status_code, answer.content) == (200, b"")
    answer = alone.post("/invocations", {"inputs": ["refund"], "scores": True}).json()
    assert answer["predictions"] == load_bundle(bundle).predict(["refund"], all_scores=True)
    refused = alone.post("/invocations", {"inputs": []})
    assert refused.status_code == 422 and refused.headers["content-type"] == "application/problem+json"
    assert requests.get(alone.url + "/invocations", timeout=15).status_code == 405


def test_vertex_ai_asks_at_its_own_routes(alone: Process, bundle: Path):
    predict = VERTEX["AIP_PREDICT_ROUTE"]
    assert alone.get(VERTEX["AIP_HEALTH_ROUTE"]).status_code == 200
    body = {"instances": ["refund", {"order": "now"}], "parameters": {"scores": True}}
    expected = load_bundle(bundle).predict(["refund", "order: now"], all_scores=True)
    assert alone.post(predict, body).json() == {"predictions": expected}
    for wrong in ({"inputs": ["a"]}, {"instances": []}, {"instances": [SECRET], "parameters": {SECRET: 1}}):
        answer = alone.post(predict, wrong)
        assert answer.status_code == 422 and SECRET not in answer.text


def refused_at(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=5).close()
    except ConnectionError:
        return True
    return False


def test_sigterm_ends_it_once_what_it_took_is_answered(alone: Process):
    host, port = alone.url.removeprefix("http://").split(":")
    body = json.dumps({"inputs": ["refund"]}).encode()
    head = f"POST /v1/intent HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=15) as client:
        client.sendall(head.encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 100")  # the request is under way
        alone.popen.send_signal(signal.SIGTERM)
        while not refused_at((host, int(port))):
            assert alone.popen.poll() is None
        client.sendall(body)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200") and b'"predictions"' in answer
    assert alone.popen.wait(timeout=15) == 0
    assert alone.popen.stdout and alone.popen.stdout.read() == "[]\n"  # none of these libraries was imported
