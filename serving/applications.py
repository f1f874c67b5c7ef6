"""The applications that Serve runs: one for each service, and the catalogue of them, as Serve's REST API takes them."""

from __future__ import annotations

import hashlib
import io
import os
import uuid
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.schema.serving import ServingSpec, service_name
from serving.dashboard import Application, DeployError
from serving.keys import usable
from serving.running import Running, read_running
from serving.runtimes import read_servable
from serving.service import Release

CATALOGUE = "catalogue"
CODE = ("configs", "serving")
CARRIED = (".py", ".html", ".css", ".js")  # suffixes of their files that replicas need
OF_DEPLOYMENTS = {"accept", "rollout"}  # fields of `ServingSpec` that replicas know nothing of


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
    spec: ServingSpec,
    name: str,
    bundle: Path,
    model_name: str,
    version: str,
    code_uri: str,
    places: Path,
    evidence: Mapping[str, float] | None = None,
) -> Application:
    """The Serve application of `bundle`, verified here once; `name` is the service where `spec` names none.

    `evidence`: figures for which it is let into service. What it runs later is written to a file in `places`, which all
    replicas see. Raises `BundleError` for a bundle that cannot be served, `ValueError` for a name that fits no path,
    `UsageError` where nobody could ask with the keys of `spec`.
    """
    service = service_name(spec.service or name)
    check_keys(spec)
    read_servable(bundle)
    given = {"bundle": str(bundle.resolve()), "name": model_name, "version": version, "evidence": dict(evidence or {})}
    release = Release.model_validate(given).model_dump()
    running = places.resolve() / "running" / f"{service}-{uuid.uuid4().hex[:12]}.json"
    return {
        "name": service,
        "route_prefix": f"/v1/{service}",
        "import_path": "serving.app:build",
        "runtime_env": {"working_dir": code_uri},
        "args": {
            "service": service,
            "serving": spec.model_dump(exclude=OF_DEPLOYMENTS),
            "running": str(running),
        },
        "logging_config": {"enable_access_log": False},
        "deployments": [_options("Service", spec, release)],
    }


def serving_of(application: Application) -> ServingSpec:
    """How the replicas of an application answer."""
    return ServingSpec.model_validate(application["args"]["serving"])


def running_file(application: Application) -> Path:
    """Where it is written what a service runs, once that is another model than at first."""
    return Path(application["args"]["running"])


def running_of(application: Application) -> Running:
    """What an application runs. Raises `BundleError` where its file is broken."""
    first = Release.model_validate(application["deployments"][0]["user_config"])
    now = read_running(running_file(application)) if "running" in application["args"] else None
    return now or Running(number=0, champion=first)


def release_of(application: Application) -> dict[str, Any]:
    """The model that an application runs: the fields of `serving.service.Release`."""
    return running_of(application).champion.model_dump()


def with_model(application: Application, release: Mapping[str, Any]) -> Application:
    """The same application that begins with another model."""
    return {
        **application,
        "deployments": [{**each, "user_config": dict(release)} for each in application["deployments"]],
    }


def is_like(application: Application, other: Application) -> bool:
    """Whether nothing but the model differs, so that the replicas of `other` can change to that of `application`."""
    return "running" in other["args"] and _within(_without_model(application), _without_model(other))


def _without_model(application: Application) -> Application:
    args = {name: value for name, value in application["args"].items() if name != "running"}
    deployments = [{**each, "user_config": {}} for each in application["deployments"]]
    return {**application, "args": args, "deployments": deployments}


def _within(part: Any, whole: Any) -> bool:
    """Whether `whole` says all that `part` says; Serve adds its defaults to what it was given."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(name in whole and _within(value, whole[name]) for name, value in part.items())
    if isinstance(part, list) and isinstance(whole, list):
        return len(part) == len(whole) and all(map(_within, part, whole))
    return part == whole


def _options(deployment: str, spec: ServingSpec, user_config: dict[str, Any]) -> dict[str, Any]:
    """Every limit by name: Serve's own defaults queue without end and stop the old replica before the new one runs."""
    return {
        "name": deployment,
        **_replicas(spec),
        "max_ongoing_requests": spec.max_ongoing_requests,
        "max_queued_requests": spec.max_queued_requests,
        "backpressure_config": {"status_code": 429, "retry_after_s": 1},
        "max_surge_percent": 100,
        "graceful_shutdown_wait_loop_s": 0.5,
        "graceful_shutdown_timeout_s": spec.graceful_shutdown_timeout_s,
        "health_check_period_s": 10,
        "health_check_timeout_s": 30,
        "ray_actor_options": {"num_cpus": spec.cpus_per_replica},
        "user_config": user_config,
    }


def _replicas(spec: ServingSpec) -> dict[str, Any]:
    if (scaling := spec.autoscaling) is None:
        return {"num_replicas": spec.replicas}
    return {
        "autoscaling_config": {
            "min_replicas": scaling.min,
            "max_replicas": scaling.max,
            "initial_replicas": max(1, scaling.min),  # so that a model has answered before it is called deployed
            "target_ongoing_requests": scaling.target_ongoing,
            "upscale_delay_s": scaling.upscale_delay_s,
            "downscale_delay_s": scaling.downscale_delay_s,
        }
    }


def keys_of(application: Application) -> str | None:
    """The file of API keys of an application."""
    return application.get("args", {}).get("serving", {}).get("keys")


def one_key_file(of_services: Mapping[str, str | None]) -> str | None:
    """The file of API keys by which the catalogue asks; None where no service has one. Raises `DeployError`."""
    files = {name: file for name, file in of_services.items() if file}
    if len({*files.values()}) > 1:
        told = ", ".join(f"{name} has {file}" for name, file in sorted(files.items()))
        raise DeployError(f"serving.keys: the services of a cluster have one file of API keys, and {told}; give one")
    return next(iter(files.values()), None)


def check_keys(spec: ServingSpec) -> None:
    """Raise `UsageError` where the file of API keys cannot be used, or has no key that is valid."""
    if spec.keys is not None:
        usable(Path(spec.keys), "serving.keys")


def asks(catalogue: Application) -> bool:
    """Whether the catalogue asks for a key."""
    return catalogue["deployments"][0]["user_config"]["keys"] is not None


def catalogue(deployed: Mapping[str, Application], code_uri: str) -> Application:
    """The catalogue with the services that are deployed, run from the code at `code_uri`. Raises `DeployError`."""
    known = listed(deployed[CATALOGUE]) if CATALOGUE in deployed else []
    services = [each for each in known if each["service"] in deployed]
    keys = one_key_file({name: keys_of(each) for name, each in deployed.items()})
    return {
        "name": CATALOGUE,
        "route_prefix": "/",
        "import_path": "serving.app:build_catalogue",
        "runtime_env": {"working_dir": code_uri},
        "logging_config": {"enable_access_log": False},
        "deployments": [_options("Catalogue", ServingSpec.model_validate({}), {"services": services, "keys": keys})],
    }


def listed(catalogue: Application) -> list[dict[str, Any]]:
    """The services of the catalogue."""
    return catalogue["deployments"][0]["user_config"]["services"]


def list_service(catalogue: Application, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Have the catalogue list a service by this entry alone; the entry as it is listed.

    A model that answers on, whatever changes beside it, is listed since when it was.
    """
    made, known = dict(entry), ("service", "name", "version")
    for each in listed(catalogue):
        if all(each[name] == made[name] for name in known):
            made |= {name: each[name] for name in ("created", "since") if name in each}
    others = [each for each in listed(catalogue) if each["service"] != made["service"]]
    ordered = sorted([*others, made], key=lambda each: each["service"])
    catalogue["deployments"][0]["user_config"]["services"] = ordered
    return made
