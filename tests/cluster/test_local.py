"""Real processes: one cluster serves most of this file, in file order (the first submission comes first)."""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import re
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from cluster import local, servers
from cluster.ports import RAY_WORKER_PORTS, is_free
from cluster.processes import listening, lives, members
from cluster.record import ClusterError
from configs.schema.serving import ServingSpec
from serving import ingress
from serving.dashboard import Dashboard
from tests.processes import free_port, named

pytestmark = pytest.mark.slow

RAY = Path(sys.executable).with_name("ray")
PATIENCE_SECONDS = 60

# A job with a worker that stays busy, and a process that no parent will end.
BUSY_JOB = """
import os, subprocess, sys, time
from pathlib import Path
import ray

@ray.remote
def work(note):
    orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    Path(note + ".part").write_text(f"{os.getpid()} {orphan.pid}")
    os.rename(note + ".part", note)
    time.sleep(600)

ray.init()
ray.get(work.remote(sys.argv[1]))
"""


class Started(NamedTuple):
    cluster: local.Cluster
    said: str
    taken_port: int


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    state = tmp_path_factory.mktemp("local") / "state"
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, socket.socket() as other:
        for name in ("SLIMCART_HOME", "SLIMCART_STATE", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
            patch.delenv(name, raising=False)
        patch.setenv("RAY_ADDRESS", "192.0.2.1:6379")  # another cluster that the shell talks to
        taken_port = free_port(8300)
        other.bind(("127.0.0.1", taken_port))
        other.listen()
        with contextlib.redirect_stdout(said):
            cluster = local.up(state, cpus=2, dashboard_port=taken_port, mlflow_port=free_port(taken_port + 10))
        try:
            yield Started(cluster, said.getvalue(), taken_port)
        finally:
            local.down(state)


@pytest.fixture
def own(started: Started) -> local.Cluster:
    return started.cluster


def test_first_submission_works_and_its_job_knows_home_and_tracking(own: local.Cluster):
    code = "import os, sys; print(os.environ['SLIMCART_HOME'], os.environ['MLFLOW_TRACKING_URI'], sys.prefix)"
    output = ray_cli(own, "job", "submit", "--", "python", "-c", code)
    assert f"{own.state / 'home'} {own.mlflow_url} {sys.prefix}" in output


def test_taken_port_is_named_and_another_one_used(started: Started):
    got = started.cluster.ports.dashboard
    assert got > started.taken_port
    told = f"port {started.taken_port} is taken, the Ray dashboard gets {got}"
    assert set(started.said.splitlines()) <= {told, "a server gave up starting; once more, MLflow after Ray"}
    assert told in started.said


def test_ports_stay_clear_of_the_workers_range(own: local.Cluster):
    ports = list(own.ports.model_dump().values())
    assert len(set(ports)) == len(ports)
    assert not set(ports) & set(RAY_WORKER_PORTS)


def test_every_socket_is_on_loopback_while_a_job_runs(own: local.Cluster, tmp_path: Path):
    worker, _ = start_busy_job(own, tmp_path)
    processes = processes_of(own)
    assert worker in {process.pid for process in processes}
    sockets = listening(processes)
    assert {address.removeprefix("::ffff:") for address, _ in sockets} <= {"127.0.0.1", "::1"}
    assert set(own.ports.model_dump(exclude={"serve_http", "serve_grpc"}).values()) <= {port for _, port in sockets}


def test_shell_file_leads_a_driver_to_the_cluster(own: local.Cluster):
    driver = "import ray; ray.init(log_to_driver=False); print('nodes', len(ray.nodes()))"
    command = f". '{own.state / 'env'}' && '{sys.executable}' -c \"{driver}\""
    assert "nodes 1" in run(["sh", "-c", command], dict(os.environ))


def test_token_and_state_are_for_their_owner_only(own: local.Cluster):
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in private_paths(own)}
    assert set(modes.values()) == {0o700, 0o600}
    assert all(mode == (0o700 if path.is_dir() else 0o600) for path, mode in modes.items())


def test_token_is_in_no_other_file_and_no_command_line(own: local.Cluster):
    token = own.token_path.read_text()
    files = [path for path in own.state.rglob("*") if path.is_file() and path != own.token_path]
    assert not [path for path in files if token.encode() in path.read_bytes()]
    assert token not in " ".join(command_lines(own))


def test_dashboard_answers_only_with_the_token(own: local.Cluster):
    token = own.token_path.read_text()
    assert get(own.ports.dashboard, "/api/jobs/") in (401, 403)
    assert get(own.ports.dashboard, "/api/jobs/", {"Authorization": "Bearer wrong"}) in (401, 403)
    assert get(own.ports.dashboard, "/api/jobs/", {"Authorization": f"Bearer {token}"}) == 200


@pytest.mark.parametrize("host", ["attacker.example", "10.attacker.example:{port}", "127.0.0.1"])
def test_mlflow_refuses_a_foreign_host_header(own: local.Cluster, host: str):
    port = own.ports.mlflow
    assert get(port, "/", {"Host": host.format(port=port)}) == 403
    assert get(port, "/", {"Host": f"localhost:{port}"}) == 200


def test_second_up_starts_nothing(own: local.Cluster):
    assert local.up(own.state) == own
    ray, mlflow = local.status(own.state)
    assert ray.running and mlflow.running
    assert mlflow.detail.startswith(f"{own.mlflow_url}/#/experiments?workflowType=machine_learning (pid ")


def test_up_replaces_only_the_part_that_died(own: local.Cluster):
    assert own.mlflow
    os.kill(own.mlflow.pid, 9)
    wait_for(lambda: not local.status(own.state)[1].running)
    again = local.up(own.state)
    assert again.ray == own.ray
    assert again.mlflow != own.mlflow
    assert again.mlflow_url == own.mlflow_url


def test_stale_record_and_killed_head_are_survived_beside_another_cluster(own: local.Cluster, tmp_path: Path):
    """The record names a pid that belongs to somebody else by now; ending this cluster spares both neighbours."""
    state = tmp_path / "state"
    state.mkdir()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as stranger:
        part = local.Part(pid=stranger.pid, created=1.0, marker="0" * 16)
        stale = own.model_copy(update={"state": state, "temp": tmp_path / "gone", "ray": part, "mlflow": part})
        (state / "cluster.json").write_text(stale.model_dump_json())
        try:
            second = local.up(state, cpus=1, dashboard_port=free_port(8300), mlflow_port=free_port(6000))
            assert second.ray and second.mlflow
            assert stranger.pid not in (second.ray.pid, second.mlflow.pid)
            processes = processes_of(second)
            os.kill(second.ray.pid, 9)  # its children lose the way back to it
            assert local.down(state)
            assert not [process for process in processes if lives(process)]
            assert stranger.poll() is None
        finally:
            local.down(state)
            stranger.kill()
    assert [line.running for line in local.status(own.state)] == [True, True]


def test_down_leaves_no_process_no_port_and_no_temporary_folder(own: local.Cluster, tmp_path: Path):
    current = local.load(own.state)
    assert current
    _, orphan = start_busy_job(current, tmp_path)
    start_serve(current, tmp_path)
    processes = processes_of(current)
    assert named("haproxy", processes)
    ports = {port for _, port in listening(processes)}
    assert orphan in {process.pid for process in processes}
    assert current.temp.is_dir()
    assert local.down(current.state)
    assert not [process for process in processes if lives(process)]
    assert not processes_of(current)
    assert all(is_free(port) for port in ports)
    assert not current.temp.exists()
    assert (current.state / "mlflow" / "mlflow.db").is_file()
    assert not local.down(current.state)


def test_start_that_fails_shows_its_log_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    broken = [sys.executable, "-c", "raise SystemExit('no room for the object store')"]
    monkeypatch.setattr(servers, "prepare_ray", lambda cluster: (broken, dict(os.environ)))
    begun: list[local.Part] = []
    start = servers.start
    monkeypatch.setattr(servers, "start", lambda name, cluster: begun.append(start(name, cluster)) or begun[-1])
    with pytest.raises(local.ClusterError, match=r"^ray ended while starting.*(?s:.*)no room for the object store"):
        local.up(tmp_path / "state", dashboard_port=free_port(8300), mlflow_port=free_port(6000))
    assert len(begun) == 2
    assert not [process for part in begun for process in members(part)]
    assert local.load(tmp_path / "state") is None


@pytest.mark.parametrize("arguments", [["begin"], ["up", "--cpus", "0"], ["up", "--cpus", "many"], ["up", "--stat"]])
def test_usage_error_is_one_line_and_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    assert local.main(arguments) == 2
    assert re.fullmatch(r"[^\n]+\n", capsys.readouterr().err)


def test_open_authentication_mode_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert local.main(["up", "--state", str(tmp_path / "state")]) == 2
    assert capsys.readouterr().err.startswith("RAY_AUTH_MODE: 'disabled'")
    assert not (tmp_path / "state").exists()


def test_status_and_down_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert local.main(["status", "--state", str(tmp_path)]) == 1
    assert capsys.readouterr().out.count("down") == 2
    assert local.main(["down", "--state", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "nothing was running\n"


def test_serve_applications_are_shown_with_their_urls(own: local.Cluster, monkeypatch: pytest.MonkeyPatch):
    answer = b"""{"http_options": {"host": "0.0.0.0", "port": 8000},
                  "applications": {"intent": {"route_prefix": "/v1/intent"}, "inner": {"route_prefix": null}}}"""
    monkeypatch.setattr(servers, "_get", lambda *_, **__: answer)
    assert servers.services_of(own) == {"intent": "http://127.0.0.1:8000/v1/intent"}


def private_paths(cluster: local.Cluster) -> list[Path]:
    return [cluster.state, cluster.token_path.parent, cluster.token_path, cluster.state / "env", cluster.temp]


def processes_of(cluster: local.Cluster) -> list[psutil.Process]:
    return [process for part in (cluster.ray, cluster.mlflow) if part for process in members(part)]


def command_lines(cluster: local.Cluster) -> Iterator[str]:
    for process in processes_of(cluster):
        with contextlib.suppress(psutil.NoSuchProcess):  # a worker that ends meanwhile
            yield from process.cmdline()


def start_busy_job(cluster: local.Cluster, folder: Path) -> tuple[int, int]:
    """Submit it and wait for its worker; returns the pids of the worker and of the orphan."""
    note = folder / "pids"
    ray_cli(cluster, "job", "submit", "--no-wait", "--", "python", "-c", BUSY_JOB, str(note))
    wait_for(note.exists)
    worker, orphan = note.read_text().split()
    return int(worker), int(orphan)


def start_serve(cluster: local.Cluster, folder: Path) -> None:
    """As the first deployment does, without an application."""
    headers = {"Authorization": f"Bearer {cluster.token_path.read_text()}"}
    spec = ServingSpec.model_validate({"port": free_port(9300)})
    settings = ingress.settings(folder, 20, cluster.environment())
    serve = Dashboard(cluster.dashboard_url, headers, spec, lambda _: settings)
    serve.write(serve.read())
    assert list(cluster.temp.glob("serve/*/haproxy.cfg"))


def ray_cli(cluster: local.Cluster, *arguments: str) -> str:
    return run([str(RAY), *arguments], {**os.environ, **cluster.environment()})


def run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def get(port: int, path: str, headers: dict[str, str] | None = None) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", path, headers=headers or {})
        return connection.getresponse().status


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@pytest.mark.parametrize(("said", "starts"), [*((each, 2) for each in servers.GAVE_UP), ("no space left", 1)])
def test_a_server_that_gave_up_for_a_passing_reason_is_started_once_more(
    said: str, starts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[Path] = []

    def fail(state: Path, *rest: object, in_turn: bool = False) -> local.Cluster:
        assert in_turn == bool(asked)
        asked.append(state)
        raise ClusterError(f"ray ended while starting: the current {said}")

    monkeypatch.setattr(local, "_up", fail)
    with pytest.raises(ClusterError):
        local.up(tmp_path)
    assert len(asked) == starts
