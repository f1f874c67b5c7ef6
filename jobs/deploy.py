"""Bring a registered model into service: gate, deploy, make it champion.

    ray job submit --working-dir . -- python -m jobs.deploy --config configs/intent.yaml
    ... bundle=models:/<name>@previous     goes back to the champion before
    ... serving.accept='[outside]'         although the test rows say that it is outside the budget
    ... remove=true                        takes the service away
    ... status=true                        says what the service runs, and how its rollout goes
    ... rollback=true                      ends the rollout, or brings the champion before back

Takes models:/<name>@challenger unless `bundle` says otherwise. Refused unless `serving.accept` names it: a model that
test rows say is outside the budget (`outside`), or that none were asked of (`untested`); one that is worse than the
champion on the same rows (`worse`); one of another name, or with other labels, than the service runs (`name`,
`labels`). What has served before may come back. The alias `champion` moves after the service answers; where either
fails, both are put back. Then the service is asked how fast it answers one client, over HTTP.

With `serving.rollout` the model is first tried on customers, beside the champion: `canary` per cent of the requests, or
as a `shadow`. The job waits for the verdict: the model takes over (exit 0), or is sent back (exit 1) with the reason.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cluster import registry, session, tracking
from cluster.registry import CHALLENGER, CHAMPION, PREVIOUS
from cluster.session import JobError
from configs.loader import UsageError
from configs.schema.recipe import Recipe
from configs.schema.tasks import named
from jobs.command import Result, main
from jobs.job import job
from jobs.measure import gate
from jobs.measure.gate import Objected, Release
from jobs.measure.served import SMOKE, served, words
from jobs.release import RETURNED_TAG, SERVED_TAG, WHY_TAG, _registered, ask_gate, make_champion, now
from jobs.rollout import ASK_S, figures, in_words, roll_out
from serving import applications, deployment
from serving.bundle import MANIFEST, Bundle, read_bundle
from serving.change import tell
from serving.dashboard import Application, Dashboard, DeployError
from serving.rollout import together

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
    beside = ".beside" if recipe.status or recipe.rollback else ""  # a job that waits for the end of a rollout
    place = tracking.Place(session.home() / ".deployments" / f"{recipe.service}{beside}", "serving.service")
    with job("deploy", recipe, parent, place=None if parent else place) as way:
        if recipe.remove:
            remove(recipe)
            return way.result({})
        if recipe.status:
            return way.result(status(recipe))
        if recipe.rollback and end_rollout(recipe):
            return way.result({})
        deployed = deploy(recipe)
        way.run.metrics.log(deployed.metrics)
        way.run.tag(slimcart__model=deployed.uri, slimcart__endpoint=deployed.endpoint)
        if deployed.accepted:
            way.run.tag(slimcart__accepted=gate.listed(deployed.accepted))
        return way.result(deployed.metrics, model_uri=deployed.uri, endpoint=deployed.endpoint)


class Asked(NamedTuple):
    """A registered model that is to be deployed: as the gate sees it, with its bundle, and as Serve runs it."""

    release: Release
    folder: Path
    bundle: Bundle
    application: Application


def asked_for(recipe: Recipe) -> Asked:
    """What a recipe wants deployed. Raises `UsageError`, `JobError` or `BundleError` where it could not be."""
    uri = recipe.bundle or f"models:/{recipe.name}@{PREVIOUS if recipe.rollback else CHALLENGER}"
    if not uri.startswith("models:"):
        raise UsageError(
            f"bundle: {uri!r}: deploy takes registered models, models:/<name>@<alias> or models:/<name>/<version>"
        )
    name, version = registry.resolve(uri)
    folder = registry.fetch(name, version, MANIFEST)
    bundle = read_bundle(folder)
    release = _registered(name, version, folder, bundle, recipe)
    if (smoke := bundle.record.smoke) is not None:
        named(smoke)(uri, folder, bundle)
    places = session.home() / "serving"
    code, evidence = applications.package_code(places / "code"), gate.shown(release)
    application = applications.application(
        recipe.serving, recipe.service, folder, name, version, code, places, evidence
    )
    return Asked(release, folder, bundle, application)


def deploy(recipe: Recipe) -> Deployed:
    """Make a registered model champion. Raises `JobError` where the gate is shut."""
    release, folder, bundle, application = asked_for(recipe)
    name, version, places = release.name, release.version, session.home() / "serving"
    dashboard_url, headers = session.dashboard()
    accepted: list[Objected] = []

    def allowed(running: Mapping[str, Any] | None) -> None:
        accepted.extend(ask_gate(release, running, recipe))

    def answering(why: str) -> None:
        tags = {f"{SERVED_TAG}{recipe.service}": now(), f"{WHY_TAG}{recipe.service}": why}
        make_champion(name, version, tags | ({ACCEPTED_TAG: gate.listed(accepted)} if accepted else {}))

    with in_one_line():
        rolled = None
        if recipe.serving.rollout and not recipe.rollback:
            rolled = roll_out(recipe, application, places, allowed, answering)
        if rolled:
            endpoint = rolled.endpoint
        else:
            why = "rollback=true" if recipe.rollback else "deployed without a rollout"
            endpoint = deployment.deploy(
                dashboard_url, headers, recipe.serving, application, places, lambda: answering(why), allowed=allowed
            )
    log.info("%s is %s and answers at %s", release.uri, CHAMPION, endpoint)
    seen = {} if _asks_for_keys(recipe) else served(endpoint, folder, bundle, SMOKE)
    try:
        registry.set_tags(name, version, words(seen), registry.ASK_SECONDS)
    except JobError as error:  # it is deployed all the same
        log.warning("%s", error)
    seen |= figures(rolled.counts) if rolled else {}
    return Deployed(release.uri, endpoint, gate.figures(release, recipe.budget) | seen, accepted)


def _asks_for_keys(recipe: Recipe) -> bool:
    if recipe.serving.keys is None:
        return False
    log.info("%s asks for an API key, of which a job has none: how fast it answers is not measured", recipe.service)
    return True


def remove(recipe: Recipe) -> None:
    """Take the recipe's service away and leave the others. Raises `JobError` where it is not deployed."""
    with in_one_line():
        deployment.undeploy(*session.dashboard(), recipe.serving, recipe.service, session.home() / "serving")
    log.info("%s is taken away; bundle=models:/<name>@%s brings it back", recipe.service, CHAMPION)


def status(recipe: Recipe) -> dict[str, float]:
    """Log what the service runs, since when and why, and how its rollout goes; as metrics. Raises `JobError`."""
    with in_one_line():
        deployed = Dashboard(*session.dashboard(), recipe.serving).read()
        if recipe.service not in deployed:
            raise JobError(f"{recipe.service}: not deployed")
        running = applications.running_of(deployed[recipe.service])
        reports = tell(recipe.service, ASK_S)
    champion = running.champion
    tags = registry.tags(champion.name, champion.version)
    since, why = (tags.get(f"{tag}{recipe.service}", "unknown") for tag in (SERVED_TAG, WHY_TAG))
    log.info("%s: %s version %s, champion since %s: %s", recipe.service, champion.name, champion.version, since, why)
    if (tried := running.candidate) is None:
        return {"replicas": len(reports)}
    counts = together(each.counts for each in reports)
    share = "shadow" if tried.rollout.shadow else f"canary of {tried.rollout.canary:g} %"
    log.info("%s: version %s, %s: %s", recipe.service, tried.release.version, share, in_words(counts))
    return {"replicas": len(reports), **figures(counts)}


def end_rollout(recipe: Recipe) -> bool:
    """End the rollout of the service and leave its champion; returns whether there was one. Raises `JobError`."""
    with in_one_line():
        given = (*session.dashboard(), recipe.serving, recipe.service, session.home() / "serving")
        ended = deployment.end(*given, promoted=False)
    if ended is None or ended.candidate is None:
        return False
    tried, stays = ended.candidate.release, ended.champion
    log.info("%s: version %s is no longer tried; version %s goes on", recipe.service, tried.version, stays.version)
    registry.set_tags(tried.name, tried.version, {f"{RETURNED_TAG}{recipe.service}": f"{now()}: rollback=true"})
    return True


def check_serve(recipe: Recipe) -> None:
    """Refuse now what Serve cannot do beside what runs, such as to listen on a taken port; after `session.connect`.

    So is a model of the recipe's name where its service runs another, and a file of API keys that cannot be used.
    """
    applications.check_keys(recipe.serving)
    with in_one_line():
        deployed = Dashboard(*session.dashboard(), recipe.serving).check()
        files = {name: applications.keys_of(each) for name, each in deployed.items()}
        applications.one_key_file(files | {recipe.service: recipe.serving.keys})
    running = deployed.get(recipe.service)
    if running and (its := applications.release_of(running))["name"] != recipe.name:
        other = gate.other_name(recipe.name, its["name"], its["version"])
        if words := gate.refused([other], recipe.serving.accept):
            raise JobError(f"{recipe.service}: would not be deployed: {words}")


@contextmanager
def in_one_line() -> Iterator[None]:
    """What Serve says is logged whole, and the job fails with the first line of it."""
    try:
        yield
    except DeployError as error:
        first, *more = str(error).splitlines()
        if more:
            log.error("%s", error)
        raise JobError(first) from None


if __name__ == "__main__":
    main(run, takes=["bundle", "remove", "status", "rollback"])
