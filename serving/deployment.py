"""Bring a bundle into service through Serve's REST API, beside what already runs, or leave everything as it was.

One PUT replaces all applications, so this reads what is deployed, merges and writes, one deployer of a machine at a
time. A new release starts new replicas beside the old ones: a reconfiguration in place takes its replica out of
service while it lasts and, where it fails, kills it.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import logging
import os
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from configs.folder import digest_json
from configs.schema.serving import ServingSpec, service_name
from configs.waiting import waiting
from serving import ingress
from serving.dashboard import POLL_S, Application, Dashboard, DeployError
from serving.runtimes import read_servable
from serving.service import Release, catalogue_entry

CATALOGUE = "catalogue"
CODE = ("configs", "serving")
CARRIED = (".py", ".html", ".css", ".js")  # suffixes of their files that replicas need
RESTORE_S = 60.0

log = logging.getLogger(__name__)


def package_code(folder: Path) -> str:
    """Zip `configs` and `serving` into `<folder>/<digest>.zip`; returns its URI for `runtime_env.working_dir`.

    A job's own code package is deleted from the cluster when the job ends, and replicas outlive jobs.
    """
    root = Path(__file__).resolve().parent.parent
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        found = (path for package in CODE for path in (root / package).rglob("*") if path.suffix in CARRIED)
        for path in sorted(found):
            archive.writestr(zipfile.ZipInfo(path.relative_to(root).as_posix()), path.read_bytes())
    target = folder.resolve() / f"{hashlib.sha256(content.getvalue()).hexdigest()[:32]}.zip"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_suffix(f".{uuid.uuid4().hex[:8]}")
        aside.write_bytes(content.getvalue())
        os.replace(aside, target)
    return target.as_uri()


def application(
    spec: ServingSpec, name: str, bundle: Path, model_name: str, version: str, code_uri: str
) -> Application:
    """The Serve application of `bundle`, verified here once; `name` is the service where `spec` names none.

    Raises `BundleError` for a bundle that cannot be served, `ValueError` for a name that fits no path.
    """
    service = service_name(spec.service or name)
    read_servable(bundle)
    release = {"bundle": str(bundle.resolve()), "name": model_name, "version": version}
    return {
        "name": service,
        "route_prefix": f"/v1/{service}",
        "import_path": "serving.app:build",
        "runtime_env": {"working_dir": code_uri},
        "args": {
            "service": service,
            "serving": spec.model_dump(exclude={"accept"}),
            "release": digest_json(release),
        },
        "logging_config": {"enable_access_log": False},
        "deployments": [_options("Service", spec, release)],
    }


def deploy(
    dashboard_url: str,
    headers: Mapping[str, str],
    spec: ServingSpec,
    application: Application,
    lock_folder: Path,
    answering: Callable[[], None] = lambda: None,
    timeout_s: float = 180,
    allowed: Callable[[dict[str, Any] | None], None] = lambda _: None,
) -> str:
    """Deploy `application` and wait until it answers; returns the URL to POST to. Old replicas answer until then.

    `allowed` and `answering` are called while no other deployer is at work. `allowed` comes first, with `release_of`
    the running service, or None; its error leaves everything as it was. `answering` comes last, for changes that have
    to hold together with the service.

    An error, in these calls too, or `ray job stop` is raised after the deployment before it is restored; a
    `DeployError` says in its first line how that went.
    """
    deadline = time.monotonic() + timeout_s
    dashboard = Dashboard(dashboard_url, headers, spec, partial(ingress.settings, lock_folder))
    with _locked(lock_folder / "deploy.lock", deadline):
        before = dashboard.check()
        service = application["name"]
        allowed(release_of(before[service]) if service in before else None)
        catalogue = _catalogue(before, application["runtime_env"]["working_dir"])
        try:
            dashboard.write({**before, CATALOGUE: before.get(CATALOGUE, catalogue), service: application})
            dashboard.wait(service, deadline)
            entry = catalogue_entry(service, Release.model_validate(release_of(application)), spec)
            others = [each for each in _services(catalogue) if each["service"] != service]
            _set_services(catalogue, [*others, entry])
            dashboard.write({**before, CATALOGUE: catalogue, service: application})
            dashboard.wait(CATALOGUE, deadline)
            dashboard.wait_answering(entry, deadline)
            answering()
        except DeployError as error:
            reason, *more = str(error).splitlines()
            first = f"{_headline(application)} was not deployed: {reason}; {_restore(dashboard, before)}"
            raise DeployError("\n".join([first, *more])) from None
        except BaseException:
            log.error("%s was not deployed; %s", _headline(application), _restore(dashboard, before))
            raise
        return f"{dashboard.address}/v1/{service}"


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
        catalogue = _catalogue(before, before[service]["runtime_env"]["working_dir"])
        _set_services(catalogue, [each for each in _services(catalogue) if each["service"] != service])
        dashboard.write({name: each for name, each in {**before, CATALOGUE: catalogue}.items() if name != service})
        dashboard.wait(CATALOGUE, deadline)
        dashboard.wait_gone(service, deadline)


def release_of(application: Application) -> dict[str, Any]:
    """The model that an application runs: the fields of `serving.service.Release`."""
    return application["deployments"][0]["user_config"]


def _options(deployment: str, spec: ServingSpec, user_config: dict[str, Any]) -> dict[str, Any]:
    """Every limit by name: Serve's own defaults queue without end and stop the old replica before the new one runs."""
    return {
        "name": deployment,
        "num_replicas": spec.replicas,
        "max_ongoing_requests": spec.max_ongoing_requests,
        "max_queued_requests": spec.max_queued_requests,
        "backpressure_config": {"status_code": 503, "retry_after_s": 1},
        "max_surge_percent": 100,
        "graceful_shutdown_wait_loop_s": 0.5,
        "graceful_shutdown_timeout_s": spec.graceful_shutdown_timeout_s,
        "health_check_period_s": 10,
        "health_check_timeout_s": 30,
        "ray_actor_options": {"num_cpus": spec.cpus_per_replica},
        "user_config": user_config,
    }


def _catalogue(deployed: Mapping[str, Application], code_uri: str) -> Application:
    """The catalogue with the services that are deployed, run from the code at `code_uri`."""
    listed = _services(deployed[CATALOGUE]) if CATALOGUE in deployed else []
    services = [each for each in listed if each["service"] in deployed]
    return {
        "name": CATALOGUE,
        "route_prefix": "/",
        "import_path": "serving.app:build_catalogue",
        "runtime_env": {"working_dir": code_uri},
        "logging_config": {"enable_access_log": False},
        "deployments": [_options("Catalogue", ServingSpec.model_validate({}), {"services": services})],
    }


def _services(catalogue: Application) -> list[dict[str, Any]]:
    return catalogue["deployments"][0]["user_config"]["services"]


def _set_services(catalogue: Application, services: list[dict[str, Any]]) -> None:
    ordered = sorted(services, key=lambda each: each["service"])
    catalogue["deployments"][0]["user_config"] = {"services": ordered}


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
