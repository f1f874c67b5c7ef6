"""The configuration of the edge, in Debian's HAProxy: TLS, limits and errors, in front of a real service."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from configs.schema.serving import ServingSpec
from serving.endpoint import create_app
from serving.labelling import put_in_service
from serving.service import Release
from tests.processes import ROOT, free_port
from tests.tiny.bundles import write_tiny_bundle
from tests.tiny.services import answering

HAPROXY = "/usr/sbin/haproxy"
pytestmark = pytest.mark.skipif(
    not Path(HAPROXY).exists() or shutil.which("openssl") is None, reason="there is no HAProxy of Debian's here"
)
BODY = {"inputs": ["refund"]}


@dataclass(frozen=True)
class Edge:
    """A running edge."""

    port: int
    certificate: Path

    def ask(self, method: str = "POST", path: str = "/v1/intent", **given: Any) -> requests.Response:
        url = f"https://localhost:{self.port}{path}"
        return requests.request(method, url, verify=str(self.certificate), timeout=30, **given)

    def connect(self) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=str(self.certificate))
        return context.wrap_socket(socket.create_connection(("127.0.0.1", self.port), 20), server_hostname="localhost")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edge")
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    where = [
        "-keyout",
        "key.pem",
        "-out",
        "crt.pem",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
    ]
    subprocess.run([*made, *where], cwd=folder, check=True, capture_output=True)
    pem = folder / "edge.pem"
    pem.write_bytes((folder / "crt.pem").read_bytes() + (folder / "key.pem").read_bytes())
    return pem


@contextmanager
def edge(certificate: Path, upstream: str, change: tuple[str, str] = ("", ""), **limits: int) -> Iterator[Edge]:
    """HAProxy on the configuration as it is, or with one `change` of its text."""
    folder = certificate.parent / f"edge-{time.monotonic_ns()}"
    shutil.copytree(ROOT / "cluster" / "edge", folder)
    config = folder / "haproxy.cfg"
    text = config.read_text(encoding="utf-8")
    assert change[0] in text
    config.write_text(text.replace(*change) if change[0] else text, encoding="utf-8")
    port = free_port(9850)
    told: Mapping[str, str] = {"EDGE_BIND": f"127.0.0.1:{port}", "EDGE_CERTIFICATE": str(certificate)}
    environment = {
        **os.environ,
        **told,
        "EDGE_UPSTREAM": upstream,
        **{name: str(each) for name, each in limits.items()},
    }
    with subprocess.Popen([HAPROXY, "-db", "-f", str(config)], env=environment, stderr=subprocess.PIPE) as process:
        try:
            until = time.monotonic() + 20
            while process.poll() is None and time.monotonic() < until:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            yield Edge(port, certificate)
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service, and of what answers for its health."""
    folder = tmp_path_factory.mktemp("service") / "bundle"
    write_tiny_bundle(folder)
    spec = ServingSpec()
    model = put_in_service("intent", Release(bundle=str(folder), name="tiny", version="1"), spec)
    app = create_app("intent", spec, lambda: model)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    with answering(app) as address:
        yield address.removeprefix("http://")


@pytest.fixture(scope="module")
def running(certificate: Path, service: str) -> Iterator[Edge]:
    with edge(certificate, service) as made:
        yield made


def assert_problem(response: requests.Response, status: int, detail: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["status"] == status
    assert detail in response.json()["detail"]


def test_a_service_is_asked_over_tls_and_its_own_errors_come_through(running: Edge):
    answer = running.ask(json=BODY)
    assert answer.json()["model"] == {"name": "tiny", "version": "1"}
    assert "max-age" in answer.headers["strict-transport-security"]
    assert len(answer.headers["x-request-id"]) >= 32
    assert running.ask(json=BODY, headers={"X-Request-ID": "mine"}).headers["x-request-id"] == "mine"
    assert_problem(running.ask(json={"inputs": "refund"}), 422, "inputs must be a list")


def test_the_documents_start_it_as_it_says_itself():
    said = (ROOT / "cluster" / "edge" / "haproxy.cfg").read_text(encoding="utf-8").splitlines()
    (command,) = [
        line.removeprefix("#").strip() for line in said if line.endswith("haproxy -f cluster/edge/haproxy.cfg")
    ]
    assert command in (ROOT / "docs" / "serving.md").read_text(encoding="utf-8").splitlines()
    given = {word.partition("=")[0] for word in command.split() if "=" in word}
    assert given == {"EDGE_BIND", "EDGE_CERTIFICATE", "EDGE_UPSTREAM"}  # the rest has defaults


def test_plain_http_and_old_tls_are_not_answered(running: Edge):
    with pytest.raises(requests.RequestException):
        requests.post(f"http://127.0.0.1:{running.port}/v1/intent", json=BODY, timeout=10)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError), socket.create_connection(("127.0.0.1", running.port), 10) as plain:
        context.wrap_socket(plain)


@pytest.mark.parametrize(
    ("given", "status", "detail"),
    [
        ({"data": b"4111" * 20_000}, 413, "larger than 65536 bytes"),
        ({"headers": {"X-Long": "4111" * 10_000}}, 431, "larger than 16384 bytes"),
        ({"headers": {f"X-{number}": "4111" for number in range(80)}}, 431, "more than 64"),
        ({"path": "/-/routes", "method": "GET"}, 403, "not open to clients"),
    ],
)
def test_what_no_service_should_see_is_answered_here(running: Edge, given: dict[str, Any], status: int, detail: str):
    answer = running.ask(**given)
    assert_problem(answer, status, detail)
    assert "4111" not in answer.text


def test_no_service_at_all_is_a_problem_that_may_be_asked_again(certificate: Path):
    with edge(certificate, f"127.0.0.1:{free_port(9890)}") as alone:
        answer = alone.ask(json=BODY)
    assert_problem(answer, 503, "ask again")
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("sent", ["half a header", "half a body"])
def test_a_client_that_sends_slowly_is_given_up_and_reaches_no_service(certificate: Path, service: str, sent: str):
    head = b"POST /v1/intent HTTP/1.1\r\nHost: localhost\r\nContent-Length: 22\r\n"
    with (
        edge(certificate, service, ("timeout http-request 10s", "timeout http-request 1s")) as quick,
        quick.connect() as slow,
    ):
        slow.sendall(head if sent == "half a header" else head + b"\r\n{")
        assert b" 408 " in slow.recv(4096).splitlines()[0]


def test_slow_clients_do_not_keep_others_out(certificate: Path, service: str):
    with edge(certificate, service, EDGE_CONNECTIONS=300) as open_to_many, ExitStack() as held:
        for _ in range(200):
            held.enter_context(open_to_many.connect()).sendall(b"POST /v1/intent HTTP/1.1\r\nHost: loc")
        assert all(open_to_many.ask(json=BODY).ok for _ in range(20))


def test_an_address_has_so_many_connections_and_requests(certificate: Path, service: str):
    with edge(certificate, service, EDGE_CONNECTIONS=5) as few, ExitStack() as held:
        for _ in range(5):
            held.enter_context(few.connect())
        with pytest.raises(requests.ConnectionError):
            few.ask(json=BODY)
    with edge(certificate, service, EDGE_REQUESTS=5) as few:
        assert [few.ask(json=BODY).status_code for _ in range(7)] == [200] * 5 + [429] * 2
        answer = few.ask(json=BODY)
    assert_problem(answer, 429, "asks too often")
    assert answer.headers["retry-after"] == "10"


def test_headers_by_which_a_client_would_command_serve_are_taken_away(certificate: Path):
    with socket.socket() as upstream:
        upstream.bind(("127.0.0.1", 0))
        upstream.listen()
        upstream.settimeout(20)
        port = upstream.getsockname()[1]
        with edge(certificate, f"127.0.0.1:{port}", (" check inter 2s", "")) as made, made.connect() as client:
            lines = "x-request-timeout-seconds: 0\r\nX-Request-Disconnect-Disabled: 1\r\nX-Forwarded-For: 1.2.3.4\r\n"
            client.sendall(f"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode())
            connection, _ = upstream.accept()
            with connection:
                asked = connection.recv(65536).decode().lower()
    assert "x-request-timeout-seconds" not in asked
    assert "x-request-disconnect-disabled" not in asked
    assert "1.2.3.4" not in asked
    assert "x-forwarded-for: 127.0.0.1" in asked
    assert "x-forwarded-proto: https" in asked
