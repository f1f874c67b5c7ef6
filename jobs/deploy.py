"""Bring a registered model into service: gate, deploy, make it champion.

    ray job submit --working-dir . -- python -m jobs.deploy --config configs/intent.yaml
    ... bundle=models:/<name>@previous     goes back to the champion before
    ... serving.accept='[outside]'         although the test rows say that it is outside the budget
    ... remove=true                        takes the service away

Takes models:/<name>@challenger unless `bundle` says otherwise. Refused unless `serving.accept` names it: a model that
test rows say is outside the budget (`outside`), or that none were asked of (`untested`); one that is worse than the
champion on the same rows (`worse`); one of another name, or with other labels, than the service runs (`name`,
`labels`). What has served before may come back. The alias `champion` moves after the service answers; where either
fails, both are put back. Then the service is asked how fast it answers one client, over HTTP.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from cluster import registry, session, tracking
from cluster.registry import CHALLENGER, CHAMPION, PREVIOUS
from cluster.session import JobError
from configs.folder import FolderError
from configs.loader import UsageError
from configs.schema.recipe import Recipe
from configs.schema.tasks import TASKS, named
from jobs.command import Result, main
from jobs.job import job
from jobs.measure import gate
from jobs.measure.gate import Objected, Release
from jobs.measure.served import SMOKE, served, words
from serving import deployment
from serving.bundle import MANIFEST, Bundle, bundle_bytes, bundle_digest, read_bundle, read_description
from serving.dashboard import Dashboard, DeployError

SERVED_TAG = "slimcart.served."  # begins the tag of a version that says when it became champion; the service follows
ACCEPTED_TAG = "slimcart.accepted"  # of a version: what spoke against its deployment, and was accepted

log = logging.getLogger(__name__)


class Deployed(NamedTuple):
    """The model that is now champion, where it answers, what was measured on it, and what was accepted against it."""

    uri: str
    endpoint: str
    metrics: dict[str, float]
    accepted: list[Objected]


def run(recipe: Recipe, parent: str | None = None) -> Result:
    """The job: one MLflow run around `deploy`. It needs nothing of the output, so another job may work there."""
    place = tracking.Place(session.home() / ".deployments" / recipe.service, "serving.service")
    with job("deploy", recipe, parent, place=None if parent else place) as way:
        if recipe.remove:
            remove(recipe)
            return way.result({})
        deployed = deploy(recipe)
        way.run.metrics.log(deployed.metrics)
        way.run.tag(slimcart__model=deployed.uri, slimcart__endpoint=deployed.endpoint)
        if deployed.accepted:
            way.run.tag(slimcart__accepted=gate.listed(deployed.accepted))
        return way.result(deployed.metrics, model_uri=deployed.uri, endpoint=deployed.endpoint)


def deploy(recipe: Recipe) -> Deployed:
    """Make a registered model champion. Raises `JobError` where the gate is shut."""
    uri = recipe.bundle or f"models:/{recipe.name}@{CHALLENGER}"
    if not uri.startswith("models:"):
        raise UsageError(
            f"bundle: {uri!r}: deploy takes registered models, models:/<name>@<alias> or models:/<name>/<version>"
        )
    name, version = registry.resolve(uri)
    folder = registry.fetch(name, version, MANIFEST)
    bundle = read_bundle(folder)
    release = _registered(name, version, folder, bundle, recipe)
    if (smoke := TASKS[bundle.task].smoke) is not None:
        named(smoke)(uri, folder, bundle)
    dashboard_url, headers = session.dashboard()
    places = session.home() / "serving"
    application = deployment.application(
        recipe.serving, recipe.service, folder, name, version, deployment.package_code(places / "code")
    )
    accepted: list[Objected] = []

    def allowed(running: Mapping[str, Any] | None) -> None:
        accepted.extend(_ask_gate(release, running, recipe))

    def answering() -> None:
        tags = {f"{SERVED_TAG}{recipe.service}": datetime.now(UTC).isoformat(timespec="seconds")}
        make_champion(name, version, tags | ({ACCEPTED_TAG: gate.listed(accepted)} if accepted else {}))

    with _in_one_line():
        endpoint = deployment.deploy(
            dashboard_url, headers, recipe.serving, application, places, answering, allowed=allowed
        )
    log.info("%s is %s and answers at %s", release.uri, CHAMPION, endpoint)
    seen = served(endpoint, folder, bundle, SMOKE)
    try:
        registry.set_tags(name, version, words(seen), registry.ASK_SECONDS)
    except JobError as error:  # it is deployed all the same
        log.warning("%s", error)
    return Deployed(release.uri, endpoint, gate.figures(release, recipe.budget) | seen, accepted)


def remove(recipe: Recipe) -> None:
    """Take the recipe's service away and leave the others. Raises `JobError` where it is not deployed."""
    with _in_one_line():
        deployment.undeploy(*session.dashboard(), recipe.serving, recipe.service, session.home() / "serving")
    log.info("%s is taken away; bundle=models:/<name>@%s brings it back", recipe.service, CHAMPION)


def check_serve(recipe: Recipe) -> None:
    """Refuse now what Serve cannot do beside what runs, such as to listen on a taken port; after `session.connect`.

    So is a model of the recipe's name where its service runs another.
    """
    with _in_one_line():
        running = Dashboard(*session.dashboard(), recipe.serving).check().get(recipe.service)
    if running and (its := deployment.release_of(running))["name"] != recipe.name:
        other = gate.other_name(recipe.name, its["name"], its["version"])
        if words := gate.refused([other], recipe.serving.accept):
            raise JobError(f"{recipe.service}: would not be deployed: {words}")


@contextmanager
def _in_one_line() -> Iterator[None]:
    """What Serve says is logged whole, and the job fails with the first line of it."""
    try:
        yield
    except DeployError as error:
        first, *more = str(error).splitlines()
        if more:
            log.error("%s", error)
        raise JobError(first) from None


def _registered(name: str, version: str, folder: Path, bundle: Bundle, recipe: Recipe) -> Release:
    """A version as the gate sees it."""
    tags = registry.tags(name, version)
    return Release(
        name,
        version,
        bundle.labels,
        gate.evidence(tags, bundle_digest(folder), recipe.judged_by.metric),
        evidence(bundle),
        served_here=f"{SERVED_TAG}{recipe.service}" in tags,
        served=version in (registry.alias_version(name, alias) for alias in (CHAMPION, PREVIOUS)),
    )


def _champion(name: str, running: Mapping[str, Any] | None, metric: str) -> Release | None:
    """What the service runs; where it runs nothing the model's champion, if there is one."""
    version = running["version"] if running else registry.alias_version(name, CHAMPION)
    if version is None:
        return None
    name = running["name"] if running else name
    try:
        folder = Path(running["bundle"]) if running else registry.fetch(name, version, MANIFEST)
        labels, digest = read_description(folder).labels, bundle_digest(folder)
    except (FolderError, JobError) as error:
        log.warning("models:/%s/%s: not read: %s", name, version, error)
        return Release(name, version, None)
    return Release(name, version, labels, gate.evidence(registry.tags(name, version), digest, metric))


def _ask_gate(release: Release, running: Mapping[str, Any] | None, recipe: Recipe) -> list[Objected]:
    """What speaks against `release` and was accepted. Raises `JobError` with what was not."""
    champion = _champion(release.name, running, recipe.judged_by.metric)
    found = gate.objections(release, champion, recipe.budget)
    if words := gate.refused(found, recipe.serving.accept):
        raise JobError(f"{release.uri}: not deployed: {words}")
    if release.served_here:
        log.info("%s has served %s before, and comes back", release.uri, recipe.service)
    elif champion and (words := gate.not_compared(release, champion)):
        log.warning("%s", words)
    if found:
        log.warning("%s: accepted: %s", release.uri, gate.listed(found))
    return found


def make_champion(name: str, version: str, tags: Mapping[str, str]) -> None:
    """Move the aliases to `version` and set its `tags`, or leave aliases where they were. Raises a `DeployError` of one
    line."""
    try:
        before = {alias: registry.alias_version(name, alias) for alias in (CHAMPION, PREVIOUS)}
        with _put_back(name, before):
            if before[CHAMPION] not in (None, version):
                registry.set_alias(name, PREVIOUS, before[CHAMPION])
            registry.set_alias(name, CHAMPION, version)
            registry.set_tags(name, version, tags)
    except JobError as error:
        raise DeployError(str(error)) from None


@contextmanager
def _put_back(name: str, aliases: Mapping[str, str | None]) -> Iterator[None]:
    """Around what moves `aliases`: whatever ends it early, they are set again, as one may have moved unanswered."""
    try:
        yield
    except BaseException as error:
        try:
            for alias, version in aliases.items():
                registry.set_alias(name, alias, version, registry.ASK_SECONDS)
        except JobError:
            words = ", ".join(f"{alias} {version or 'unset'}" for alias, version in aliases.items())
            log.error("models:/%s: aliases may have moved; before: %s", name, words)
            if isinstance(error, JobError):
                raise JobError(f"{error}; aliases may have moved, before: {words}") from None
        raise


def evidence(bundle: Bundle) -> dict[str, float]:
    """What the bundle's manifest says was measured on it, with validation rows, its size counted anew."""
    return {**bundle.metrics, "megabytes": bundle_bytes(bundle) / 1e6}


if __name__ == "__main__":
    main(run, takes=["bundle", "remove"])
