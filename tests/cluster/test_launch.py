from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayTaskError
from ray.train import ControllerError, WorkerGroupError

from cluster import launch, session
from cluster.launch import _cause
from cluster.record import Cluster
from cluster.session import JobError
from cluster.spec import EngineSpec
from configs.folder import FolderError
from configs.loader import UsageError

COLLATERAL = RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:1234")


@pytest.mark.parametrize("reason", [UsageError("student.layers: 9"), JobError("the loss became nan"), FolderError("x")])
def test_a_known_reason_of_any_worker_comes_before_connections_that_it_closed(reason: Exception):
    found = _cause(WorkerGroupError("two workers failed", {0: COLLATERAL, 1: reason}))
    assert (type(found), found.args) == (type(reason), reason.args)


def test_a_known_reason_is_found_below_rays_own_errors():
    reason = JobError("the loss became nan")
    wrapped = RayTaskError("train", "Traceback ...", reason)
    for error in (WorkerGroupError("failed", {0: wrapped}), ControllerError(wrapped), ControllerError(reason)):
        assert str(_cause(error)) == "the loss became nan"


def test_an_unknown_error_is_one_line_with_its_type():
    found = _cause(WorkerGroupError("failed", {1: ValueError("later"), 0: ValueError("much text\nbad axis\n")}))
    assert isinstance(found, JobError)
    assert str(found) == "training failed: ValueError: bad axis"
    assert str(_cause(WorkerGroupError("failed", {0: KeyError()}))) == "training failed: KeyError: "


def die(config: dict[str, Any]) -> None:
    """Runs on the worker."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_without_restarts_is_an_error_of_one_line(on_cluster: Cluster, tmp_path: Path):
    session.connect()
    with pytest.raises(JobError, match=r"^training failed: .+$") as failed:
        launch.fit(f"{__name__}:die", {}, EngineSpec(cpus_per_worker=1, max_failures=0), tmp_path)
    assert "\n" not in str(failed.value)
