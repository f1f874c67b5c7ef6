"""The TCP ports of the local cluster, and how free ports are found."""

from __future__ import annotations

import random
import socket

from configs.loader import Spec, UsageError

LOOPBACK = "127.0.0.1"
RAY_WORKER_PORTS = range(10002, 20000)  # Ray's documented range for workers
INTERNAL_PORTS = range(20000, 30000)  # above that range and below those that Serve gives its replicas


class Ports(Spec):
    """Ports that the cluster listens on; Ray's workers get further ones from the kernel, and replicas from Serve."""

    dashboard: int
    mlflow: int
    gcs: int
    node_manager: int
    object_manager: int
    agent_http: int
    agent_grpc: int
    runtime_env_agent: int
    ray_client: int
    metrics: int
    dashboard_metrics: int
    autoscaler_metrics: int
    serve_http: int = 8500  # what Serve falls back on behind HAProxy; the defaults are its own
    serve_grpc: int = 9500


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of loopback now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that just closed do not count
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def choose_port(user: str, wanted: int, but: int | None = None) -> int:
    """`wanted`, or else the next free port, which is printed on one line."""
    if not 1024 <= wanted <= 65535:
        raise UsageError(f"port {wanted} for {user}: give one from 1024 to 65535")
    for port in range(wanted, 65536):
        if port not in RAY_WORKER_PORTS and port != but and is_free(port):
            if port != wanted:
                why = "belongs to Ray's workers" if wanted in RAY_WORKER_PORTS else "is taken"
                print(f"port {wanted} {why}, {user} gets {port}")
            return port
    raise UsageError(f"port {wanted} for {user}: it and all above are taken, give a lower one")


def choose_ports(dashboard: int, mlflow: int) -> Ports:
    """All ports; the internal ones at random, so that two clusters starting at once rarely want the same."""
    names = [name for name in Ports.model_fields if name not in ("dashboard", "mlflow")]
    candidates = random.sample(INTERNAL_PORTS, 20 * len(names))
    free = [port for port in candidates if port not in (dashboard, mlflow) and is_free(port)]
    return Ports(dashboard=dashboard, mlflow=mlflow, **dict(zip(names, free, strict=False)))
