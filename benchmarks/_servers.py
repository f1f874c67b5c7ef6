"""Servers of one model, side by side: our service on a cluster of its own, and programs that hold the model."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import unittest.mock
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks._bare import SERVICE
from cluster import local, processes
from cluster.ports import choose_port, is_free
from cluster.record import Cluster
from configs.schema.serving import ServingSpec
from serving import applications, deployment
from serving.dashboard import Dashboard

PATIENCE_S = 120.0
PASSED = ("haproxy", "ray::ServeReplica:", "ray::ProxyActor")  # processes of a cluster that a request passes through


class Server(NamedTuple):
    """What answers at a URL."""

    url: str
    processes: Callable[[], list[psutil.Process]]  # all that a request passes through
    rests: bool = False  # whether it is stopped while others are asked

    def rest(self) -> None:
        """Stop one that rests."""
        for each in self.processes() if self.rests else ():
            each.suspend()

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Have one that rests run meanwhile."""
        for each in self.processes():
            each.resume()
        yield
        self.rest()


class Deployed:
    """A service on a cluster, as `jobs.deploy` changes it."""

    def __init__(self, cluster: Cluster, bundle: Path) -> None:
        self._bundle = bundle
        self._headers = {"Authorization": f"Bearer {cluster.token_path.read_text()}"}
        self._port = choose_port(f"the service of {cluster.state.name}", 9810)
        self._code, self._places = applications.package_code(cluster.state / "code"), cluster.state / "serving"
        self._dashboard_url = cluster.dashboard_url
        self._ray = cluster.ray
        self.server = Server(f"http://127.0.0.1:{self._port}/v1/{SERVICE}", lambda: self.processes(*PASSED))

    def processes(self, *names: str) -> list[psutil.Process]:
        """Those of the cluster that have one of these names, or titles that begin with it; without names all."""
        assert self._ray
        found: list[psutil.Process] = []
        for process in processes.members(self._ray):
            with contextlib.suppress(psutil.NoSuchProcess):
                title = " ".join(process.cmdline())
                if not names or process.name() in names or title.startswith(names):
                    found.append(process)
        return found

    def start_serve(self) -> None:
        """Start Serve without a service, and so without our settings."""
        serve = Dashboard(self._dashboard_url, self._headers, self._spec())
        serve.write(serve.read())

    def deploy(self, version: str = "1", **serving: Any) -> None:
        """Bring the bundle into service under a version, with fields of `ServingSpec`."""
        spec = self._spec(**serving)
        made = applications.application(spec, SERVICE, self._bundle, SERVICE, version, self._code, self._places)
        deployment.deploy(self._dashboard_url, self._headers, spec, made, self._places)

    def remove(self) -> None:
        """End the service."""
        deployment.undeploy(self._dashboard_url, self._headers, self._spec(), SERVICE, self._places)

    def _spec(self, **serving: Any) -> ServingSpec:
        return ServingSpec.model_validate({"port": self._port, **serving})


@contextlib.contextmanager
def deployed(state: Path, bundle: Path) -> Iterator[Deployed]:
    """A cluster of its own on which nothing is deployed yet."""
    cluster = local.up(state)
    try:
        with unittest.mock.patch.dict(os.environ, cluster.environment()):
            yield Deployed(cluster, bundle)
    finally:
        local.down(state)


@contextlib.contextmanager
def service(state: Path, bundle: Path, defaults: bool = False, rest: int | None = None) -> Iterator[Server]:
    """A service on a cluster of its own; with `defaults` Serve was started before, by nobody's settings.

    What of the cluster no request passes through keeps to the core `rest`.
    """
    with deployed(state, bundle) as made:
        if defaults:
            made.start_serve()
        made.deploy()
        if rest is not None:
            pin(made.processes(), rest)
        yield made.server


@contextlib.contextmanager
def program(module: str, bundle: Path, beside: Path | None = None) -> Iterator[Server]:
    """`python -m <module> <bundle> <port>`, with the packages in the folder `beside` before those that are here."""
    port = choose_port(module, 9800)
    environment = {**os.environ, "PYTHONPATH": f"{beside}{os.pathsep}{Path.cwd()}"} if beside else None
    command = [sys.executable, "-m", module, str(bundle), str(port)]
    process = psutil.Popen(  # its own session, as a cluster is: Linux shares cores out by session
        command, start_new_session=True, env=environment, stdout=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + PATIENCE_S
        while is_free(port):  # it listens last
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{module} did not start")
            time.sleep(0.2)
        # LitServe's processes take a core while they wait, and Linux gives each session its share of one.
        yield Server(f"http://127.0.0.1:{port}/v1/{SERVICE}", lambda: _tree(process), rests=True)
    finally:
        started = _tree(process)
        for each in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.terminate()
                each.resume()
        for each in psutil.wait_procs(started, timeout=10)[1]:
            each.kill()


def pin(running: Sequence[psutil.Process], core: int) -> None:
    """Keep all threads of processes, and what they start, to one core."""
    for process in running:
        subprocess.run(["taskset", "-a", "-c", "-p", str(core), str(process.pid)], capture_output=True, check=False)


def _tree(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def installed(package: str, folder: Path) -> str:
    """The version of a package in a folder of its own, installed there if it is not. Raises `RuntimeError`."""
    place = folder / package
    if not list(place.glob(f"{package}-*.dist-info")):
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(place), package]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{package} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    (found,) = place.glob(f"{package}-*.dist-info")
    return found.name.removeprefix(f"{package}-").removesuffix(".dist-info")
