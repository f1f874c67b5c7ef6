"""Bring all services of a cluster to the state that one file says, and touch nothing that is in it already.

    ray job submit --working-dir . -- python -m jobs.services --config serving.yaml
    ... remove=true                        also takes services away that the file does not list

The file lists services, each with its registered model and its own `serving` section over a common one. What runs as
the file says is left alone. Another model alone is swapped in the replicas that are there, other limits start new ones
beside them, and a service that is missing is deployed, each through the gate of `jobs.deploy` and with a run of its own
in MLflow. All is checked before anything is changed. Where one service fails, the others are brought up all the same.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cluster import registry, session
from cluster.session import JobError
from configs.errors import KnownError
from configs.loader import UsageError
from configs.schema.recipe import Recipe
from configs.schema.services import ServicesSpec
from jobs import deploy
from jobs.command import lead, read_command
from jobs.release import ask_gate
from serving import applications, deployment
from serving.applications import CATALOGUE
from serving.bundle import MANIFEST, BundleError, read_description
from serving.dashboard import Application, Dashboard, DeployError
from serving.runtimes import one_line

log = logging.getLogger(__name__)
Failure = (KnownError, BundleError, DeployError)


class Brought(NamedTuple):
    """The services of a cluster after the command."""

    deployed: dict[str, str]  # endpoints, of what was changed or new
    unchanged: list[str]
    removed: list[str]

    @property
    def line(self) -> str:
        """The last line on stdout."""
        return "RESULT " + json.dumps({"job": "services", **self._asdict()})


def run(asked: ServicesSpec) -> Brought:
    """The command. Raises `UsageError` or `JobError`, the latter also where some services could not be brought up."""
    places = session.home() / "serving"
    session.connect()
    with deploy.in_one_line():
        deployed = Dashboard(*session.dashboard(), asked.serving).read()
    changed = _check(asked, deployed)
    unchanged = sorted({*asked.services} - {*changed})
    for service in unchanged:
        log.info("%s: runs as it should", service)
    endpoints = _deploy(changed)
    others = sorted({*deployed} - {*asked.services, CATALOGUE})
    for service in others:
        if asked.remove:
            with deploy.in_one_line():
                deployment.undeploy(*session.dashboard(), asked.serving, service, places)
        log.warning("%s: %s", service, "is taken away" if asked.remove else "not listed; remove=true takes it away")
    return Brought(endpoints, unchanged, others if asked.remove else [])


def _check(asked: ServicesSpec, deployed: Mapping[str, Application]) -> dict[str, Recipe]:
    """The services that have to change. Raises `UsageError` where one of all cannot run, after a line for each."""
    recipes: dict[str, Recipe] = {}
    wrong: dict[str, str] = {}
    for service in asked.services:
        try:
            recipe = _recipe(asked, service)
            if not _runs(recipe, deployed.get(service)):
                recipes[service] = recipe
        except Failure as error:
            wrong[service] = one_line(error)
    kept = {name: each for name, each in deployed.items() if not asked.remove or name in asked.services}
    try:
        keys = asked.serving.keys and str(session.home() / asked.serving.keys)
        files = {name: applications.keys_of(each) for name, each in kept.items() if name != CATALOGUE}
        applications.one_key_file(files | dict.fromkeys(asked.services, keys))
        _check_cores(asked)
    except Failure as error:
        wrong["all services"] = one_line(error)
    for service, reason in wrong.items():
        log.error("%s: %s", service, reason)
    if wrong:
        first, reason = next(iter(wrong.items()))
        more = f" (and {len(wrong) - 1} more, see above)" if len(wrong) > 1 else ""
        raise UsageError(f"nothing was changed: {first}: {reason}{more}")
    return recipes


def _recipe(asked: ServicesSpec, service: str) -> Recipe:
    """What `jobs.deploy` would be given for a service."""
    told = asked.services[service]
    name, version = registry.resolve(told.model)
    task = read_description(registry.fetch(name, version, MANIFEST)).task
    serving = asked.serving_of(service)
    recipe = Recipe.model_validate({"name": name, "task": task, "bundle": f"models:/{name}/{version}"})
    with_sections = recipe.model_copy(update={"serving": serving, "budget": told.budget})
    return with_sections.on_driver(session.home(), Path.cwd())


def _runs(recipe: Recipe, running: Application | None) -> bool:
    """Whether the service runs as it should. Raises where it could not be brought to it."""
    wanted = deploy.asked_for(recipe)
    with deploy.in_one_line():
        Dashboard(*session.dashboard(), recipe.serving).check()
    its = applications.release_of(running) if running else None
    same = its is not None and (its["name"], its["version"]) == (wanted.release.name, wanted.release.version)
    if running and same and applications.is_like(wanted.application, running):
        return True
    ask_gate(wanted.release, its, recipe)
    return False


def _check_cores(asked: ServicesSpec) -> None:
    """Refuse replicas that the cluster could never hold at once."""
    import ray

    each = {name: asked.serving_of(name) for name in asked.services}
    least = {name: spec.autoscaling.min if spec.autoscaling else spec.replicas for name, spec in each.items()}
    wanted = sum(spec.cpus_per_replica * least[name] for name, spec in each.items())
    if wanted > (have := ray.cluster_resources().get("CPU", 0)):
        parts = (f"{name} {least[name]} x {spec.cpus_per_replica:g}" for name, spec in each.items())
        raise UsageError(
            f"serving.cpus_per_replica: {', '.join(parts)} are {wanted:g} CPUs, the cluster has {have:g}; give less"
        )


def _deploy(changed: Mapping[str, Recipe]) -> dict[str, str]:
    """The endpoints of what was changed. Raises `JobError` where some could not be, after the others were."""
    endpoints: dict[str, str] = {}
    failed: dict[str, str] = {}
    for service, recipe in changed.items():
        try:
            endpoints[service] = deploy.run(recipe).endpoint or ""
        except Failure as error:
            failed[service] = one_line(error)
            log.error("%s: %s", service, failed[service])
    if failed:
        told = "; ".join(f"{service}: {reason}" for service, reason in failed.items())
        raise JobError(f"{len(failed)} of {len(changed)} services were not brought up, all others run: {told}")
    return endpoints


def work(arguments: Sequence[str]) -> str | None:
    """The command line in, the last line out; None where it asked for help."""
    asked = read_command(__doc__ or "", arguments, ServicesSpec)
    return None if asked is None else run(asked).line


if __name__ == "__main__":
    lead(work, sys.argv[1:])
