"""The two servers of the local cluster, Ray's head and MLflow: how each is started, and whether it is ready."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil

from cluster import settings
from cluster.ports import LOOPBACK
from cluster.processes import MARKER, process_of
from cluster.record import Cluster, ClusterError, Name, Part, private_folder, write_private
from configs.waiting import waiting

Starting = tuple[Name, Part | None, Callable[[Cluster], bool]]  # and whether it is ready

START_SECONDS = 120.0
TAIL_LINES = 20
GAVE_UP = (  # what a server says that a second attempt may mend
    "node timed out during startup",  # Ray's head, when its raylet was not there in 30 s
    "because it's already occupied",  # Ray's dashboard, when another took its port after it was found free
    "address already in use",  # MLflow, for the same reason
)

# A server and all that it starts leave no core file, which would hold what customers write: as `configs.core_files`.
WITHOUT_CORE_FILES = ("/bin/sh", "-c", 'ulimit -c 0 && exec "$0" "$@"')

# Variables by which a new head would join, trust or imitate another cluster (RAY_AUTH_TOKEN beats its _PATH).
FOREIGN_RAY = (
    "RAY_ADDRESS",
    "RAY_API_SERVER_ADDRESS",
    "RAY_AUTH_TOKEN",
    "RAY_JOB_CONFIG_JSON_ENV_VAR",
    "RAY_JOB_ID",
    "RAY_RAYLET_PID",
    "RAY_REDIS_ADDRESS",
)


def start(name: Name, cluster: Cluster) -> Part:
    """Start one part in its own session, its output in `<state>/logs/<name>.log`."""
    marker = secrets.token_hex(8)
    prepare = prepare_ray if name == "ray" else prepare_mlflow
    command, environment = prepare(cluster)
    log = _log(name, cluster)
    private_folder(log.parent)
    with log.open("wb") as output:
        child = subprocess.Popen(
            [*WITHOUT_CORE_FILES, *command],
            env={**environment, MARKER: marker},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cluster.state / "mlflow" if name == "mlflow" else None,
            start_new_session=True,
        )
    return Part(pid=child.pid, created=psutil.Process(child.pid).create_time(), marker=marker)


def wait_until_ready(cluster: Cluster) -> None:
    """Wait for the parts that were started.

    Raises `ClusterError` with the end of a log where a server ends, gives up on itself, or is not ready in time.
    """
    known: list[Starting] = [
        ("ray", cluster.ray, ray_is_ready),
        ("mlflow", cluster.mlflow, mlflow_is_ready),
    ]
    missing = [each for each in known if each[1]]
    deadline = time.monotonic() + START_SECONDS
    with waiting(
        lambda: f"waiting for {' and '.join(name for name, *_ in missing)} to start, at most {START_SECONDS:g} s"
    ):
        _wait_for(missing, cluster, deadline)


def _wait_for(missing: list[Starting], cluster: Cluster, deadline: float) -> None:
    while missing:
        for each in list(missing):
            name, part, is_ready = each
            if part is None or process_of(part) is None or gave_up(_log(name, cluster).read_text(errors="replace")):
                raise ClusterError(f"{name} ended while starting{_tail(_log(name, cluster))}")
            if is_ready(cluster):
                missing.remove(each)
            elif time.monotonic() > deadline:
                raise ClusterError(f"{name} was not ready after {START_SECONDS:.0f} s{_tail(_log(name, cluster))}")
        time.sleep(0.2 if missing else 0)


def gave_up(said: str) -> bool:
    """Whether a server says that it has given up on itself for a reason that a second attempt may mend."""
    return any(each in said for each in GAVE_UP)


def ray_is_ready(cluster: Cluster) -> bool:
    """Whether a job can be submitted now.

    A submission asks the dashboard for the head's id, then the head's agent; both come seconds after the port opens.
    """
    # The dashboard stores the head's id just before it lists the node; a new query passes by its 2 s cache.
    nodes = f"{cluster.dashboard_url}/nodes?view=hostNameList&at={time.monotonic_ns()}"
    try:
        _get(f"http://{LOOPBACK}:{cluster.ports.agent_http}/api/local_raylet_healthz", cluster)
        _get(f"{cluster.dashboard_url}/api/version", cluster)  # answered by the module that takes submissions
        return bool(json.loads(_get(nodes, cluster))["data"]["hostNameList"])
    except (OSError, ValueError, KeyError):
        return False


def mlflow_is_ready(cluster: Cluster) -> bool:
    """Whether the tracking server answers."""
    try:
        return _get(f"{cluster.mlflow_url}/health") == b"OK"
    except OSError:
        return False


def services_of(cluster: Cluster) -> dict[str, str]:
    """URL by application of Ray Serve; empty while Serve does not run."""
    try:
        details = json.loads(_get(f"{cluster.dashboard_url}/api/serve/applications/", cluster, timeout=10))
    except (OSError, ValueError):
        return {}
    options = details.get("http_options") or {}
    host = options.get("host", LOOPBACK)
    base = f"http://{LOOPBACK if host in ('0.0.0.0', '::') else host}:{options.get('port', 8000)}"  # noqa: S104 - read, not bound
    routed = {name: app.get("route_prefix") for name, app in (details.get("applications") or {}).items()}
    return {name: base + prefix for name, prefix in routed.items() if prefix}


def prepare_ray(cluster: Cluster) -> tuple[list[str], dict[str, str]]:
    """The command and the environment of Ray's head; jobs inherit the environment."""
    private_folder(cluster.token_path.parent)
    _ensure_token(cluster.token_path)
    cluster.home.mkdir(parents=True, exist_ok=True)
    ports = cluster.ports
    options = {
        "node-ip-address": LOOPBACK,
        "port": ports.gcs,
        "node-manager-port": ports.node_manager,
        "object-manager-port": ports.object_manager,
        "dashboard-host": LOOPBACK,
        "dashboard-port": ports.dashboard,
        "dashboard-agent-listen-port": ports.agent_http,
        "dashboard-agent-grpc-port": ports.agent_grpc,
        "runtime-env-agent-port": ports.runtime_env_agent,
        "ray-client-server-port": ports.ray_client,
        "metrics-export-port": ports.metrics,
        "temp-dir": cluster.temp / "ray",  # Ray opens this one to everybody (0777), the folder around it stays ours
        "log-style": "record",
        "log-color": "false",
    }
    if cluster.cpus is not None:
        options["num-cpus"] = cluster.cpus
    flags = [f"--{name}={value}" for name, value in options.items()]
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN_RAY}
    environment.setdefault("RAY_worker_niceness", "0")  # Ray's default of 15 makes workers yield to everything else
    environment |= {
        **cluster.shared_environment(),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # `down` means now: by default a busy head waits 30 s
        "RAY_JOB_STOP_WAIT_TIME_S": "30",  # a stopped job ends its MLflow runs; by default it is killed after 3 s
        "DASHBOARD_METRIC_PORT": str(ports.dashboard_metrics),  # else 44227 and 44217 for every cluster
        "AUTOSCALER_METRIC_PORT": str(ports.autoscaler_metrics),
        **settings.GUARDED,
    }
    # -P: the folder that `up` runs in must not shadow what Ray imports.
    return [sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--head", "--block", *flags], environment


def prepare_mlflow(cluster: Cluster) -> tuple[list[str], dict[str, str]]:
    """The command and the environment of the MLflow server."""
    folder = cluster.state / "mlflow"
    private_folder(folder)
    port = cluster.ports.mlflow
    options = {
        "host": LOOPBACK,
        "port": port,
        "workers": 1,
        "backend-store-uri": f"sqlite:///{folder / 'mlflow.db'}",
        "artifacts-destination": folder / "artifacts",
        # Compared whole, port included; the default's patterns (10.*, 192.168.*) accept 10.attacker.example.
        "allowed-hosts": f"{LOOPBACK}:{port},localhost:{port}",
        "cors-allowed-origins": f"http://{LOOPBACK}:{port},http://localhost:{port}",
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    # None of the caller's MLflow settings: one of them turns the Host check off.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment |= {**settings.GUARDED, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return [sys.executable, "-P", "-m", "mlflow", "server", "--serve-artifacts", *flags], environment


def _ensure_token(path: Path) -> None:
    if path.exists():
        path.chmod(0o600)
    else:
        write_private(path, secrets.token_hex(32))


def _log(name: Name, cluster: Cluster) -> Path:
    return cluster.state / "logs" / f"{name}.log"


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
    return "\n".join([f"; the end of {log}:", *lines])


def _get(url: str, cluster: Cluster | None = None, timeout: float = 5) -> bytes:
    """The body of a 200 answer; anything else is an `OSError`. The token of a given `cluster` goes along."""
    headers = {"Authorization": f"Bearer {cluster.token_path.read_text()}"} if cluster else {}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy knows another 127.0.0.1
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=timeout) as answer:  # noqa: S310 - ours
            return answer.read()
    except http.client.HTTPException as error:  # the server ended in mid-answer
        raise OSError(str(error)) from error
