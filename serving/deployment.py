"""Bring a bundle into service through Serve's REST API, beside what already runs, or leave everything as it was.

One PUT replaces all applications, so this reads what is deployed, merges and writes, one deployer of a machine at a
time. Another model alone is a `serving.change`. Where the program or its limits differ, new replicas start beside the
old ones: a reconfiguration in place takes its replica out of service while it lasts and, where it fails, kills it.
"""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from configs.schema.serving import ServingSpec
from configs.waiting import waiting
from serving import ingress
from serving.applications import (
    CATALOGUE,
    asks,
    catalogue,
    is_like,
    keys_of,
    list_service,
    release_of,
    running_file,
    serving_of,
    with_model,
)
from serving.change import Change, Tell, tell
from serving.dashboard import POLL_S, Application, Dashboard, DeployError
from serving.running import Running
from serving.service import Release, catalogue_entry

RESTORE_S = 60.0

log = logging.getLogger(__name__)


def deploy(
    dashboard_url: str,
    headers: Mapping[str, str],
    spec: ServingSpec,
    application: Application,
    lock_folder: Path,
    answering: Callable[[], None] = lambda: None,
    timeout_s: float = 180,
    allowed: Callable[[dict[str, Any] | None], None] = lambda _: None,
    ask: Tell = tell,
) -> str:
    """Deploy `application` and wait until it answers; returns the URL to POST to. What ran before answers until then.

    Where nothing but the model differs from what runs, the replicas that are there load it and switch; else new
    replicas start beside the old ones. `allowed` and `answering` are called while no other deployer is at work.
    `allowed` comes first, with `release_of` the running service, or None; its error leaves everything as it was.
    `answering` comes last, for changes that have to hold together with the service.

    An error, in these calls too, or `ray job stop` is raised after the deployment before it is restored; a
    `DeployError` says in its first line how that went.
    """
    deadline = time.monotonic() + timeout_s
    dashboard = Dashboard(dashboard_url, headers, spec, partial(ingress.settings, lock_folder))
    with _locked(lock_folder / "deploy.lock", deadline):
        before = dashboard.check()
        service = application["name"]
        allowed(release_of(before[service]) if service in before else None)
        if service in before and is_like(application, before[service]):
            change = Change(dashboard, before, service, ask)
            release = Release.model_validate(release_of(application))
            change.to(change.running.with_champion(release), deadline, answering)
            return f"{dashboard.address}/v1/{service}"
        _put(dashboard, before, application, deadline, answering)
        return f"{dashboard.address}/v1/{service}"


def begin(
    dashboard_url: str,
    headers: Mapping[str, str],
    spec: ServingSpec,
    application: Application,
    lock_folder: Path,
    allowed: Callable[[dict[str, Any] | None], None],
    timeout_s: float = 180,
    ask: Tell = tell,
) -> Running | None:
    """Begin the rollout of the model of `application` in all replicas; what the service runs then.

    None where there is no champion to hold it against. Raises a `DeployError`, and then all is as before.
    """
    assert spec.rollout
    deadline = time.monotonic() + timeout_s
    dashboard = Dashboard(dashboard_url, headers, spec, partial(ingress.settings, lock_folder))
    with _locked(lock_folder / "deploy.lock", deadline):
        before, service = dashboard.check(), application["name"]
        if service not in before:
            return None
        champion, candidate = release_of(before[service]), Release.model_validate(release_of(application))
        allowed(champion)
        if candidate.is_model_of(Release.model_validate(champion)):
            raise DeployError(
                f"{service}: version {candidate.version} is its champion already; there is nothing to try"
            )
        if not is_like(application, before[service]):
            _put(dashboard, before, with_model(application, champion), deadline)
            before = dashboard.read()
        change = Change(dashboard, before, service, ask)
        if tried := change.running.candidate:
            raise DeployError(
                f"{service}: version {tried.release.version} is being tried; wait for its end, or rollback=true ends "
                "it now"
            )
        wanted = change.running.with_candidate(candidate, spec.rollout)
        change.to(wanted, deadline)
        return wanted


def end(
    dashboard_url: str,
    headers: Mapping[str, str],
    spec: ServingSpec,
    service: str,
    lock_folder: Path,
    promoted: bool,
    number: int | None = None,
    answering: Callable[[], None] = lambda: None,
    timeout_s: float = 120,
    ask: Tell = tell,
) -> Running | None:
    """End the rollout of a service: its candidate answers alone where it is `promoted`, else its champion.

    Returns what ran before; None where no candidate is tried, or, of a `number`, another one. Raises `DeployError`.
    """
    deadline = time.monotonic() + timeout_s
    dashboard = Dashboard(dashboard_url, headers, spec)
    with _locked(lock_folder / "deploy.lock", deadline):
        deployed = dashboard.read()
        if service not in deployed:
            return None
        change = Change(dashboard, deployed, service, ask)
        running = change.running
        if running.candidate is None or number not in (None, running.number):
            return None
        stays = running.candidate.release if promoted else running.champion
        change.to(running.with_champion(stays), deadline, answering)
        return running


def _put(
    dashboard: Dashboard,
    before: Mapping[str, Application],
    application: Application,
    deadline: float,
    answering: Callable[[], None] = lambda: None,
) -> None:
    """Start the replicas of `application`, and end those that had its name; or restore `before`."""
    service = application["name"]
    after = {**before, service: application}
    listing = catalogue(after, application["runtime_env"]["working_dir"])
    if service in before and keys_of(before[service]) and not keys_of(application):
        log.warning("%s asked for API keys until now, and asks for none any more", service)
    try:
        dashboard.write({**after, CATALOGUE: before.get(CATALOGUE, listing)})
        dashboard.wait(service, deadline)
        entry = catalogue_entry(service, Release.model_validate(release_of(application)), serving_of(application))
        entry = list_service(listing, entry)
        dashboard.write({**after, CATALOGUE: listing})
        dashboard.wait(CATALOGUE, deadline)
        dashboard.wait_answering(entry, deadline, keys_of(application) is not None, asks(listing))
        answering()
    except DeployError as error:
        reason, *more = str(error).splitlines()
        first = f"{_headline(application)} was not deployed: {reason}; {_restore(dashboard, before)}"
        raise DeployError("\n".join([first, *more])) from None
    except BaseException:
        log.error("%s was not deployed; %s", _headline(application), _restore(dashboard, before))
        raise
    _forget(before.get(service))


def _forget(application: Application | None) -> None:
    """Remove the file of an application that runs no more."""
    if application and "running" in application["args"]:
        running_file(application).unlink(missing_ok=True)


def undeploy(
    dashboard_url: str,
    headers: Mapping[str, str],
    spec: ServingSpec,
    service: str,
    lock_folder: Path,
    timeout_s: float = 60,
) -> None:
    """Take `service` away and leave the others; its replicas first finish their requests.

    Raises `DeployError` where it is not deployed.
    """
    deadline = time.monotonic() + timeout_s
    dashboard = Dashboard(dashboard_url, headers, spec)
    with _locked(lock_folder / "deploy.lock", deadline):
        before = dashboard.read()
        if service not in before or service == CATALOGUE:
            raise DeployError(
                f"{service}: not deployed; services: {', '.join(sorted({*before} - {CATALOGUE})) or 'none'}"
            )
        after = {name: each for name, each in before.items() if name != service}
        listing = catalogue(after, before[service]["runtime_env"]["working_dir"])
        dashboard.write({**after, CATALOGUE: listing})
        dashboard.wait(CATALOGUE, deadline)
        dashboard.wait_gone(service, deadline)
        _forget(before[service])


def _headline(application: Application) -> str:
    release = release_of(application)
    return f"{application['name']}: {release['name']} version {release['version']}"


def _restore(dashboard: Dashboard, before: Mapping[str, Application]) -> str:
    """Write back what was deployed; returns how that went, as the end of a line."""
    try:
        dashboard.write(before)
        for name in before:
            dashboard.wait(name, time.monotonic() + RESTORE_S)
    except DeployError as error:
        return f"what was deployed before could not be restored: {str(error).splitlines()[0]}"
    return "what was deployed before is restored" if before else "nothing is deployed, as before"


@contextmanager
def _locked(path: Path, deadline: float) -> Iterator[None]:
    """Hold the file's lock, which the system frees when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        with waiting(lambda: f"waiting for {path}: another deployment of this machine holds it"):
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise DeployError(f"{path}: another deployment still runs; try again after it") from None
                    time.sleep(POLL_S)
        yield
