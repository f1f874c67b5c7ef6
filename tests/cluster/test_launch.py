from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from ray import cloudpickle
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError
from ray.train import ControllerError, WorkerGroupError
from ray.train.torch import TorchConfig
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from cluster import launch, session
from cluster.launch import _cause
from cluster.record import Cluster
from cluster.session import JobError
from configs.folder import FolderError
from configs.loader import UsageError
from configs.schema.engine import EngineSpec
from tests.faults.marks import fault
from tests.processes import run

KILLED_FOR_MEMORY = OutOfMemoryError("Memory on the node")
HEALTH_TIMEOUT = "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"
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


def test_a_death_comes_before_connections_that_it_closed():
    died = WorkerHealthCheckFailedError("A worker health check failed.", ActorDiedError())
    assert str(_cause(WorkerGroupError("failed", {0: COLLATERAL, 1: died}))).startswith("training failed: ActorDied")


@fault("worker killed for memory")
def test_a_worker_killed_for_memory_is_said_to_be():
    for held in (WorkerHealthCheckFailedError("A worker health check failed.", KILLED_FOR_MEMORY), KILLED_FOR_MEMORY):
        found = str(_cause(WorkerGroupError("failed", {0: COLLATERAL, 1: held})))
        assert found.startswith("training failed: a worker was killed for memory: ")
        assert "\n" not in found


@fault("worker killed for memory")
@pytest.mark.parametrize("ours", [True, False])
def test_a_group_in_which_a_worker_was_killed_for_memory_comes_to_its_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ours: bool
):
    """Without that Ray cannot start it again; control: its own backend raises. Both travel to another process."""
    given: dict[str, Any] = {}

    def trainer(*_: Any, **fields: Any) -> Any:
        given.update(fields)
        return SimpleNamespace(fit=lambda: SimpleNamespace(return_value=None))

    def killed(futures: Any, timeout: float) -> None:
        raise KILLED_FOR_MEMORY

    monkeypatch.setattr("ray.train.torch.TorchTrainer", trainer)
    monkeypatch.setattr("ray.nodes", lambda: [1, 2])
    launch.fit("", {}, EngineSpec(), tmp_path)
    config = cloudpickle.loads(cloudpickle.dumps(given["torch_config"] if ours else TorchConfig()))  # pyright: ignore[reportPrivateImportUsage]
    monkeypatch.setattr("ray.get", killed)
    with contextlib.nullcontext() if ours else pytest.raises(OutOfMemoryError):
        config.backend_cls().on_shutdown(Group(), config)


class Group:
    """Of one worker, as a backend sees it."""

    def __len__(self) -> int:
        return 1

    def execute_async(self, *_: Any, **__: Any) -> list[Any]:
        return []


def die(config: dict[str, Any]) -> None:
    """Runs on the worker."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_without_restarts_is_an_error_of_one_line(on_cluster: Cluster, tmp_path: Path):
    session.connect()
    with pytest.raises(JobError, match=r"^training failed: .+$") as failed:
        launch.fit(f"{__name__}:die", {}, EngineSpec(cpus_per_worker=1, max_failures=0), tmp_path)
    assert "\n" not in str(failed.value)


def stand_still_once(config: dict[str, Any]) -> str:
    """Runs on the workers: the second one stops, the first time; `starts` has its process, a line for each start."""
    import torch.distributed

    starts = Path(config["starts"])
    if torch.distributed.get_rank() == 1:
        again = starts.exists()
        with starts.open("a") as file:
            file.write(f"{os.getpid()}\n")
        if not again:
            os.kill(os.getpid(), signal.SIGSTOP)
    torch.distributed.barrier()
    return "went on"


def wake(starts: Path, seconds: float) -> None:
    """Let the stopped worker go on, `seconds` after its stop."""
    while not (starts.exists() and starts.read_text().endswith("\n")):
        time.sleep(0.1)
    worker = psutil.Process(int(starts.read_text()))
    while worker.status() != psutil.STATUS_STOPPED:
        time.sleep(0.1)
    time.sleep(seconds)
    worker.resume()


@fault("worker stopped (SIGSTOP)")
@pytest.mark.parametrize("noticed", [True, pytest.param(False, marks=pytest.mark.often)])
def test_a_worker_that_stands_still_is_noticed_and_the_group_starts_again(
    on_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noticed: bool
):
    """Control: with Ray's own ten minutes everyone waits until the worker goes on by itself."""
    session.connect()
    seconds, starts = 5, tmp_path / "starts"
    monkeypatch.setattr(launch, "STANDSTILL_SECONDS", seconds if noticed else 600)
    monkeypatch.setenv(HEALTH_TIMEOUT, "")  # so that it is put back to what it was
    monkeypatch.delenv(HEALTH_TIMEOUT)
    if not noticed:
        threading.Thread(target=wake, args=(starts, 3 * seconds), daemon=True).start()
    spec = EngineSpec(workers=2, cpus_per_worker=1, max_failures=1)
    assert launch.fit(f"{__name__}:stand_still_once", {"starts": str(starts)}, spec, tmp_path) == "went on"
    assert len(starts.read_text().splitlines()) == (2 if noticed else 1)


@fault("worker killed for memory", runs=2, slow=True)
def test_a_worker_that_takes_all_memory_is_started_again_and_the_message_says_memory(
    own_cluster: Callable[[], Cluster], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seed: int
):
    """By Ray's monitor, which is told that half of what is free now must stay free."""
    memory = psutil.virtual_memory()
    limit = 1 - memory.available / 2 / memory.total
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{limit:.3f}")
    environment = os.environ | own_cluster().environment()
    done = run([sys.executable, "-m", "tests.cluster.hungry", str(tmp_path), str(seed)], environment, timeout=300)
    *before, last = done.output.splitlines()
    if not seed:
        assert last.startswith("training failed: a worker was killed for memory: "), done.output
        return
    assert last == "went on", done.output
    assert any("training was interrupted: a worker was killed for memory: " in line for line in before), done.output
