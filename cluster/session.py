"""The surroundings of a job: two addresses in its environment, and the Ray cluster that it joins."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.errors import KnownError
from configs.given import root_of
from configs.loader import UsageError
from configs.schema.engine import EngineSpec
from configs.shown_urls import shown_urls

LOSS_SECONDS = 5.0  # within which the head of a cluster that ends follows its workers
HINT = "submit with `ray job submit`, or run `make up` and `source .slimcart/env`"


class JobError(KnownError):
    """A job could not do what it was asked, for a reason that is known: one line, exit code 1."""


def home() -> Path:
    """$SLIMCART_HOME, under which relative outputs lie. Raises `UsageError` where it is not set."""
    return Path(_required("SLIMCART_HOME")).absolute()


def tracking_uri() -> str:
    """$MLFLOW_TRACKING_URI; no default, since a second place for runs would go unnoticed."""
    return _required("MLFLOW_TRACKING_URI")


def mlflow_page(uri: str, *path: str) -> str:
    """URL of the experiments, or of a page below them: MLflow's first view would show no training."""
    return f"{'/'.join([shown_urls(uri), '#', 'experiments', *path])}?workflowType=machine_learning"


def _required(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise UsageError(f"environment: {name} is not set; {HINT}")
    return value


def connect() -> None:
    """Join the running cluster, once; workers find this code under the same `working_dir`."""
    import ray
    import ray.data

    from cluster.version import code_version

    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS", "auto")
        _check_reachable(address)  # Ray itself retries a dead address for many minutes
        runtime_env: dict[str, Any] = {}
        if address != "auto":  # Ray's own helper actors look for "the" cluster, and another may run on this machine
            runtime_env["env_vars"] = {"RAY_ADDRESS": address}
        if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:  # started by hand: nothing was uploaded yet
            runtime_env["working_dir"] = os.getcwd()
            runtime_env.setdefault("env_vars", {})["SLIMCART_COMMIT"] = code_version()[1]  # the upload has no .git
        try:
            ray.init(address=address, runtime_env=runtime_env, logging_level=logging.WARNING)
        except ConnectionError as error:
            raise UsageError(f"environment: no Ray cluster answers ({str(error).splitlines()[0]}); {HINT}") from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # bars of a pipeline of seconds drown the log of a job
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # Ray's own in its place has lost the one that it was raised from
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # an error of a task is told by whoever meets it


def _check_reachable(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return
    if error := _refusal(host, port):
        raise UsageError(f"environment: RAY_ADDRESS={address} does not answer ({error.strerror or error}); {HINT}")


def is_lost(error: BaseException) -> bool:
    """Whether the cluster that this process joined is gone; after an error of Ray itself it may go within seconds."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return False
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    end = time.monotonic() + (LOSS_SECONDS if isinstance(root_of(error), ray.exceptions.RayError) else 0)
    while not _refusal(host, port):
        if time.monotonic() >= end:
            return False
        time.sleep(0.1)
    return True


def _refusal(host: str, port: str) -> OSError | None:
    """Why nobody takes a connection there; None where somebody does."""
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        return error
    return None


def dashboard() -> tuple[str, dict[str, str]]:
    """(URL, headers) of the dashboard's REST API, with the cluster's token; after `connect`."""
    from ray._private.worker import get_dashboard_url

    token = os.environ.get("RAY_AUTH_TOKEN", "")
    if not token and (path := os.environ.get("RAY_AUTH_TOKEN_PATH")):
        token = Path(path).read_text(encoding="utf-8").strip()
    return f"http://{get_dashboard_url()}", {"Authorization": f"Bearer {token}"} if token else {}


def submission_id() -> str | None:
    """Id of the `ray job submit` that this process belongs to; None when started by hand."""
    metadata = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}").get("metadata") or {}
    return metadata.get("job_submission_id")


def check_capacity(engine: EngineSpec, total: Mapping[str, float] | None = None) -> None:
    """Refuse what the whole cluster could never hold; Ray Train would wait for it for ever."""
    if total is None:
        import ray

        total = ray.cluster_resources()
    for kind, per_worker in engine.of_each_worker.items():
        have, amount = int(total.get(kind, 0)), engine.workers * per_worker
        if amount > have:
            raise UsageError(
                f"engine: workers={engine.workers} x {per_worker:g} {kind} = {amount:g} {kind}, "
                f"the cluster has {have}; use at most {have // per_worker:g} workers of this size"
                + (" or fewer CPUs each" if kind == "CPU" else "")
            )
