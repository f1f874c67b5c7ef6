"""Starts one group of training workers with Ray Train and returns what its first worker returned."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cluster import cores, session, settings
from cluster.session import JobError
from cluster.settings import Settings
from configs.errors import KnownError
from configs.given import root_of
from configs.schema.engine import EngineSpec

WORKER_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    # Math threads that spin while they wait take the core that a neighbour needs: steps 7x slower were seen on two
    # cores with one busy neighbour.
    "OMP_WAIT_POLICY": "PASSIVE",
    # A step allocates and frees the same large blocks; glibc would give each back to the system and fault it in again.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 36),  # bytes
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # it prints every line of a worker twice
}

STANDSTILL_SECONDS = 60  # without an answer, after which a worker is taken for dead
START_SECONDS = 86_400  # that a group waits for cores; Ray's 60 end in a traceback, and in the next try
FAREWELL_SECONDS = 10  # for workers to leave their process group before they are ended; one that stands still does not

log = logging.getLogger(__name__)


def fit(train_loop: str, config: dict[str, Any], spec: EngineSpec, folder: Path) -> Any:
    """Run `train_loop(config)` on every worker; plain values in, rank 0's return value out.

    `train_loop` is named "module:function", so that only the workers spend the seconds that its imports take. `folder`
    is for Ray's own notes. The group waits for cores that other jobs hold, and says so; `session.check_capacity` has
    refused before what the cluster could never hold. The workers have the driver's `cluster.settings`, and meet its
    MLflow server or end with a `JobError`. Raises `JobError` with the first worker's reason, or the `UsageError` that a
    worker met.
    """
    import ray
    from ray.exceptions import RayError
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    # How often Ray looks at the workers: every report of an epoch waits for its next look, and so does the end.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", str(STANDSTILL_SECONDS))
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(START_SECONDS))
    if len(ray.nodes()) == 1:  # no node to move to when this one is taken away, so no process that watches for it
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    environment = dict(WORKER_ENVIRONMENT)
    if not spec.use_gpu:
        environment |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    driver = settings.of_this_process(ray.util.get_node_ip_address())

    def on_worker() -> Any:
        return _on_worker(train_loop, config, driver)

    trainer = TorchTrainer(
        on_worker,  # holds its arguments itself: Ray shows a `train_loop_config` in the dashboard and its logs
        torch_config=_torch_config(),
        scaling_config=ScalingConfig(
            num_workers=spec.workers,
            use_gpu=spec.use_gpu,
            resources_per_worker=spec.of_each_worker,
        ),
        run_config=RunConfig(
            name=f"train-{uuid.uuid4().hex[:12]}",  # a name used twice would silently resume the older run
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=spec.max_failures),
            worker_runtime_env={"env_vars": environment},
            logging_config=LoggingConfig(log_level="WARNING"),
            callbacks=[_known_reasons()],
        ),
    )
    try:
        with cores.for_cores():
            return trainer.fit().return_value
    except (TrainingFailedError, RayError) as error:  # of the workers; or of Ray's own controller, which died
        raise _cause(error) from error


def _torch_config() -> Any:
    """Ray's process group for torch, which also restarts after a worker was killed for memory."""
    from ray.exceptions import OutOfMemoryError
    from ray.train.torch import TorchConfig

    backend: Any = TorchConfig().backend_cls

    class Backend(backend):
        """When Ray's own backend ends a group to restart it, it expects every death of a worker but one for memory."""

        def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
            os.environ.setdefault("TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S", str(FAREWELL_SECONDS))
            with contextlib.suppress(OutOfMemoryError):
                super().on_shutdown(worker_group, backend_config)

    class Torch(TorchConfig):
        """With that backend."""

        @property
        def backend_cls(self) -> Any:
            return Backend

    return Torch()


def _known_reasons() -> Any:
    """A callback that ends the run at a reason which a restart would only meet again."""
    from ray.train import UserCallback

    class KnownReasons(UserCallback):
        """Ray does not retry what a callback raises."""

        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            if isinstance(cause := _first(worker_exceptions.values()), KnownError):
                raise cause
            log.warning("training was interrupted: %s", _in_a_line(cause))  # Ray starts it again, or gives up

    return KnownReasons()


def _on_worker(train_loop: str, config: dict[str, Any], driver: Settings) -> Any:
    import ray

    driver.enter(ray.util.get_node_ip_address())  # before libraries that read it when they are imported
    module, _, name = train_loop.partition(":")
    return getattr(importlib.import_module(module), name)(config)


def _cause(error: Exception) -> Exception:
    failures = getattr(error, "worker_failures", None) or {0: getattr(error, "controller_failure", error)}
    first = _first(failures[rank] for rank in sorted(failures))
    if isinstance(first, KnownError):
        return type(first)(*first.args)
    if session.is_lost(first):
        return JobError("the Ray cluster went away; submit the job again, it goes on where it was")
    return JobError(f"training failed: {_in_a_line(first)}")


def _in_a_line(reason: BaseException) -> str:
    from ray.exceptions import OutOfMemoryError

    lines = str(reason).strip().splitlines() or [""]
    if not isinstance(reason, OutOfMemoryError):
        return f"{type(reason).__name__}: {lines[-1]}"
    return f"a worker was killed for memory: {lines[0]}"


def _first(failures: Iterable[BaseException]) -> BaseException:
    """The root of the workers' failures to report: the first known reason, else the first death, else the first.

    When one worker gives up for a reason, or dies, the others fail with closed connections.
    """
    from ray.exceptions import RayError

    roots = [root_of(failure) for failure in failures]
    return next((root for kind in (KnownError, RayError) for root in roots if isinstance(root, kind)), roots[0])
