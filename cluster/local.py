"""The local cluster: a Ray head and an MLflow server that listen on loopback only.

    python -m cluster.local up|down|status [--state DIR] [--cpus N]

Everything it keeps lies in the state folder: `cluster.json` (what runs), `env` (for a shell to source), `logs/`,
`ray/auth_token`, `mlflow/` and `home/`. `down` keeps the last two and the token.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from cluster import processes, record, servers, session
from cluster.ports import choose_port, choose_ports, is_free
from cluster.processes import process_of
from cluster.record import Cluster, ClusterError, Name, Part, load
from configs.loader import UsageError


class Health(NamedTuple):
    """One line of `status`."""

    name: str
    running: bool
    detail: str


def up(state: Path, cpus: int | None = None, dashboard_port: int = 8265, mlflow_port: int = 5000) -> Cluster:
    """Start what does not run yet and return once a job can be submitted; raises `ClusterError` or `UsageError`.

    A server that gave up on itself is started once more, in its turn: Ray's head gives up after a fixed 30 s on a busy
    machine, and another cluster that starts at the same time may take a port that was free.
    """
    try:
        return _up(state, cpus, dashboard_port, mlflow_port)
    except ClusterError as error:
        if not servers.gave_up(str(error)):
            raise
        print("a server gave up starting; once more, MLflow after Ray")
        return _up(state, cpus, dashboard_port, mlflow_port, in_turn=True)


def _up(state: Path, cpus: int | None, dashboard_port: int, mlflow_port: int, in_turn: bool = False) -> Cluster:
    mode = os.environ.get("RAY_AUTH_MODE")
    if mode not in (None, "", "token"):
        raise UsageError(f"RAY_AUTH_MODE: {mode!r} would leave the cluster open; unset it, or set it to 'token'")
    state = state.absolute()
    record.private_folder(state)
    with record.lock(state):
        before = load(state)
        cluster, missing = _plan(state, before, cpus, dashboard_port, mlflow_port)
        started: list[Part] = []
        try:
            for name in missing:
                part = servers.start(name, cluster)
                started.append(part)
                cluster = cluster.model_copy(update={name: part})
                record.save(cluster)
                if in_turn:
                    servers.wait_until_ready(cluster)
            servers.wait_until_ready(cluster)
            record.write_env(cluster)
        except BaseException:
            processes.end(started)
            record.forget(cluster, missing)
            raise
    return cluster


def down(state: Path) -> bool:
    """End all that `up` started and wait for its ports; keeps MLflow's data and home. False: nothing ran."""
    state = state.absolute()
    if not state.is_dir():
        return False
    with record.lock(state):
        cluster = load(state)
        if cluster is None:
            return False
        ended = processes.end([part for part in (cluster.ray, cluster.mlflow) if part])
        record.forget(cluster, ["ray", "mlflow"])
    return ended


def status(state: Path) -> list[Health]:
    """Ray and MLflow, each with its URL; then one line for each application that Serve runs."""
    cluster = load(state.absolute())
    if cluster is None:
        return [Health("ray", False, "not started"), Health("mlflow", False, "not started")]
    ray = _health("ray", cluster.ray, cluster.dashboard_url, lambda: servers.ray_is_ready(cluster))
    page = session.mlflow_page(cluster.mlflow_url)
    mlflow = _health("mlflow", cluster.mlflow, page, lambda: servers.mlflow_is_ready(cluster))
    services = [Health(name, True, url) for name, url in servers.services_of(cluster).items()] if ray.running else []
    return [ray, mlflow, *services]


def _plan(
    state: Path, before: Cluster | None, cpus: int | None, dashboard_port: int, mlflow_port: int
) -> tuple[Cluster, list[Name]]:
    """The cluster to be, and the parts that have to be started for it."""
    ray = before.ray if before and before.ray and process_of(before.ray) else None
    mlflow = before.mlflow if before and before.mlflow and process_of(before.mlflow) else None
    if before:  # a head or a server that was killed leaves children behind, and they hold its ports
        processes.end([part for part in (before.ray, before.mlflow) if part and part not in (ray, mlflow)])
    if before and ray:
        if cpus not in (None, before.cpus):
            print(f"Ray already runs with --cpus {before.cpus or 'unset'}; run down, then up, to change it")
        if not mlflow and not is_free(before.ports.mlflow):
            port = before.ports.mlflow
            raise UsageError(f"port {port} is taken, and the jobs of the running Ray look for MLflow there; run down")
        cluster = before
    else:
        if before:
            shutil.rmtree(before.temp, ignore_errors=True)
        at = before.ports.mlflow if before and mlflow else choose_port("MLflow", mlflow_port)
        ports = choose_ports(choose_port("the Ray dashboard", dashboard_port, but=at), at)
        home = Path(os.environ.get("SLIMCART_HOME") or state / "home").absolute()
        cluster = Cluster(state=state, home=home, temp=_short_folder(), ports=ports, cpus=cpus)
    cluster = cluster.model_copy(update={"ray": ray, "mlflow": mlflow})
    running: dict[Name, Part | None] = {"ray": ray, "mlflow": mlflow}
    return cluster, [name for name, part in running.items() if part is None]


def _short_folder() -> Path:
    short = Path("/tmp")  # noqa: S108 - $TMPDIR may be too long for a unix socket (107 bytes); mkdtemp makes it 0700
    return Path(tempfile.mkdtemp(prefix="slimcart-", dir=short if short.is_dir() else None))


def _health(name: Name, part: Part | None, url: str, is_ready: Callable[[], bool]) -> Health:
    if part is None or process_of(part) is None:
        return Health(name, False, "not running")
    return Health(name, is_ready(), f"{url} (pid {part.pid})")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see python -m cluster.local --help")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of CPUs, give 1 or more")
    return int(text)


def _parse(arguments: list[str] | None) -> Any:
    parser = _Parser(prog="python -m cluster.local", description="Ray and MLflow on this machine, loopback only.")
    parser.add_argument("action", choices=["up", "down", "status"])
    parser.add_argument(
        "--state",
        type=Path,
        default=Path(os.environ.get("SLIMCART_STATE") or ".slimcart"),
        help="folder for data, logs and the token (default: $SLIMCART_STATE, else .slimcart)",
    )
    parser.add_argument("--cpus", type=_count, help="CPUs that Ray may use (default: all)")
    return parser.parse_args(arguments)


def _print_health(lines: list[Health]) -> int:
    for line in lines:
        print(f"{line.name:<10} {'up' if line.running else 'down':<5} {line.detail}")
    return 0 if all(line.running for line in lines) else 1


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    try:
        options = _parse(arguments)
        if options.action == "up":
            cluster = up(options.state, options.cpus)
            code = _print_health(status(cluster.state))
            print(f"next: . {shlex.quote(str(cluster.state / 'env'))}")
            return code
        if options.action == "down":
            print("ended" if down(options.state) else "nothing was running")
            return 0
        return _print_health(status(options.state))
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
