"""The record of a local cluster in its state folder: `cluster.json`, `env` and `lock`."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from cluster.ports import LOOPBACK, Ports
from configs.folder import held, write_synced
from configs.loader import Spec, UsageError

Name = Literal["ray", "mlflow"]


class ClusterError(Exception):
    """The cluster did not start or end; the first line says what, the rest is the tail of a log."""


class Part(Spec):
    """One process that `up` started; a pid alone may belong to someone else by now."""

    pid: int
    created: float  # seconds since the epoch
    marker: str


class Cluster(Spec):
    """The cluster that `up` started, as `cluster.json` keeps it."""

    state: Path
    home: Path
    temp: Path  # Ray's own folder: its unix sockets need a path shorter than most state folders
    ports: Ports
    cpus: int | None = None
    ray: Part | None = None
    mlflow: Part | None = None

    @property
    def dashboard_url(self) -> str:
        return f"http://{LOOPBACK}:{self.ports.dashboard}"

    @property
    def mlflow_url(self) -> str:
        return f"http://{LOOPBACK}:{self.ports.mlflow}"

    @property
    def token_path(self) -> Path:
        return self.state / "ray" / "auth_token"

    def environment(self) -> dict[str, str]:
        """Variables by which a shell or a child process talks to this cluster; they hold no secret."""
        return {
            "RAY_API_SERVER_ADDRESS": self.dashboard_url,  # `ray job` reads this first, `ray.init` never
            "RAY_ADDRESS": f"{LOOPBACK}:{self.ports.gcs}",
            **self.shared_environment(),
            "SLIMCART_STATE": str(self.state),
        }

    def shared_environment(self) -> dict[str, str]:
        """The part of `environment` that Ray's processes, and so every job, get too."""
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_path),
            # Without it Ray turns 127.0.0.1 into the host's address: servers listen everywhere, drivers find none.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "MLFLOW_TRACKING_URI": self.mlflow_url,
            "SLIMCART_HOME": str(self.home),
            # In Ray's folder, which is removed with Ray, so that no two clusters clash; else `serving.ingress` chooses.
            "SLIMCART_INGRESS": str(self.temp / "serve"),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(self.ports.serve_http),
            "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(self.ports.serve_grpc),
        }


def load(state: Path) -> Cluster | None:
    """The cluster that the state folder describes, running or not; None when there is none."""
    try:
        return Cluster.model_validate_json((state / "cluster.json").read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        path = state / "cluster.json"
        raise UsageError(f"{path}: not a description of a cluster; end its processes, then delete it") from None


def save(cluster: Cluster) -> None:
    """Write `cluster.json`."""
    write_synced(cluster.state / "cluster.json", cluster.model_dump_json(indent=2) + "\n")


def forget(cluster: Cluster, parts: list[Name]) -> None:
    """Take ended parts off the record, and Ray's folder with Ray."""
    if "ray" in parts:
        shutil.rmtree(cluster.temp, ignore_errors=True)
    rest = cluster.model_copy(update=dict.fromkeys(parts))
    if rest.ray or rest.mlflow:
        save(rest)
    else:
        (cluster.state / "cluster.json").unlink(missing_ok=True)
        (cluster.state / "env").unlink(missing_ok=True)


def write_env(cluster: Cluster) -> None:
    """`<state>/env`, readable by its owner: `. .slimcart/env` lets a shell talk to the cluster.

    The shell then finds the `ray` and `python` that started this cluster.
    """
    exports = [f"export {name}={shlex.quote(value)}" for name, value in cluster.environment().items()]
    programs = shlex.quote(str(Path(sys.executable).parent))
    first = f'case "${{PATH-}}" in {programs}|{programs}:*) ;; *) export PATH={programs}"${{PATH:+:$PATH}}" ;; esac'
    write_private(cluster.state / "env", "\n".join(["unset RAY_AUTH_TOKEN", *exports, first]) + "\n")


@contextlib.contextmanager
def lock(state: Path) -> Iterator[None]:
    """One `up` or `down` at a time in one state folder."""
    with held(state / "lock", f"process {os.getpid()}", lambda owner: f"waiting for {state}: {owner} works there"):
        yield


def private_folder(path: Path) -> None:
    """Make a folder that only its owner can enter, or take an existing one."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; give a folder of your own with --state") from None


def write_private(path: Path, text: str) -> None:
    """Write a file, whole or not at all, that only its owner can read at any moment."""
    before = os.umask(0o077)
    try:
        write_synced(path, text)
    finally:
        os.umask(before)
