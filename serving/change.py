"""A change of what a deployed service runs, made in the replicas that are there: no process starts and none ends."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from serving.applications import (
    CATALOGUE,
    asks,
    catalogue,
    keys_of,
    list_service,
    running_file,
    running_of,
    serving_of,
)
from serving.bundle import BundleError
from serving.dashboard import POLL_S, Application, Dashboard, DeployError
from serving.rollout import Report
from serving.running import Running, write_running
from serving.runtimes import one_line
from serving.service import catalogue_entry

TELL_S = 60.0  # for loading and trying a model in all replicas
DEAD_S = 30.0  # until Serve, which asks every 10 s, knows that a replica has died
log = logging.getLogger(__name__)

Tell = Callable[[str, float], list[Report]]


def tell(service: str, timeout_s: float) -> list[Report]:
    """Have all replicas of a service run what its file says; what each reports. Raises a `DeployError` of one line.

    Where a replica has died, they are told again until Serve knows it; the one in its place reads the file. This
    process has joined the cluster.
    """
    from ray.exceptions import RayActorError

    until = time.monotonic() + min(timeout_s, DEAD_S)
    while True:
        try:
            return _tell(service, timeout_s)
        except RayActorError:
            if time.monotonic() > until:
                raise DeployError(f"{service}: a replica died, and Serve did not replace it in time") from None
            time.sleep(POLL_S)


def _tell(service: str, timeout_s: float) -> list[Report]:
    """The same, once. Raises also `RayActorError` where a replica has died."""
    from ray import serve
    from ray.exceptions import RayActorError
    from ray.serve.exceptions import DeploymentUnavailableError, RayServeException

    try:
        handle = serve.get_app_handle(service)
        said = handle.broadcast("follow").results(timeout_s=timeout_s)
    except DeploymentUnavailableError:  # it has none at the moment: the next one reads the file
        return []
    except TimeoutError:
        raise DeployError(f"{service}: its replicas did not change in {timeout_s:g} s") from None
    except RayActorError:
        raise
    except Exception as error:  # noqa: BLE001 - what a replica raised comes as Ray's own error, with its traceback
        cause = getattr(error, "cause", None) or error
        kind = type(error).__name__ if isinstance(error, RayServeException) else type(cause).__name__
        raise DeployError(f"{kind}: {_last_line(cause)}") from None
    return [Report.model_validate(each) for each in said]


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "Ray gives no reason"


class Change:
    """What one deployer changes at a service while no other is at work."""

    def __init__(self, dashboard: Dashboard, applications: Mapping[str, Application], service: str, ask: Tell) -> None:
        """`applications`: all that are deployed, this service among them."""
        self._dashboard, self._applications, self._service, self._ask = dashboard, applications, service, ask
        self._application = applications[service]

    @property
    def running(self) -> Running:
        """What the service runs. Raises `DeployError`."""
        try:
            return running_of(self._application)
        except BundleError as error:
            raise DeployError(one_line(error)) from None

    def to(self, wanted: Running, deadline: float, answering: Callable[[], None] = lambda: None) -> None:
        """Have all replicas run what is `wanted`, and the catalogue list it; then call `answering`.

        Whatever fails, what ran before runs again. Raises a `DeployError` of one line, and what `answering` raises.
        """
        before = self.running
        try:
            self._make(wanted, deadline)
            answering()
        except DeployError as error:
            reason = str(error).splitlines()[0]
            raise DeployError(
                f"{_headline(self._service, wanted)}: {reason}; {self._back_to(before, wanted)}"
            ) from None
        except BaseException:
            log.error("%s; %s", _headline(self._service, wanted), self._back_to(before, wanted))
            raise

    def _make(self, wanted: Running, deadline: float) -> None:
        write_running(running_file(self._application), wanted)
        while True:
            reports = self._ask(self._service, max(1.0, min(TELL_S, deadline - time.monotonic())))
            if all(each.number >= wanted.number for each in reports):
                break
            if time.monotonic() > deadline:
                raise DeployError("not all of its replicas changed in the time given")
            time.sleep(POLL_S)
        self._list(wanted, deadline)

    def _list(self, wanted: Running, deadline: float) -> None:
        entry = catalogue_entry(self._service, wanted.champion, serving_of(self._application)) | share_of(wanted)
        made = catalogue(self._applications, self._applications[CATALOGUE]["runtime_env"]["working_dir"])
        entry = list_service(made, entry)
        self._dashboard.write({**self._applications, CATALOGUE: made})
        self._dashboard.wait(CATALOGUE, deadline)
        self._dashboard.wait_answering(entry, deadline, keys_of(self._application) is not None, asks(made))

    def _back_to(self, before: Running, wanted: Running) -> str:
        """Returns how that went, as the end of a line."""
        try:
            self._make(before.model_copy(update={"number": wanted.number + 1}), time.monotonic() + TELL_S)
        except DeployError as error:
            return f"what it ran before could not be restored: {str(error).splitlines()[0]}"
        return f"it goes on with version {before.champion.version}"


def share_of(running: Running) -> dict[str, Any]:
    """What the catalogue says of a rollout."""
    if (tried := running.candidate) is None:
        return {}
    share = tried.rollout.canary or 0
    sticky = {"sticky": tried.rollout.sticky} if tried.rollout.sticky else {}
    return {"share": 100 - share, "candidate": {**tried.release.model, "share": share, **sticky}}


def _headline(service: str, wanted: Running) -> str:
    release = wanted.candidate.release if wanted.candidate else wanted.champion
    return f"{service}: {release.name} version {release.version} was not deployed"
