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
from typing import Any, NamedTuple

from cluster import registry, session, tracking
from cluster.registry import CHALLENGER, CHAMPION
from cluster.session import JobError
from configs.loader import UsageError
from configs.schema.recipe import Recipe
from configs.schema.tasks import named
from jobs.command import Result, main
from jobs.job import job
from jobs.measure import gate
from jobs.measure.gate import Objected
from jobs.measure.served import SMOKE, served, words
from jobs.release import SERVED_TAG, _ask_gate, _registered, make_champion
from serving import deployment
from serving.bundle import MANIFEST, read_bundle
from serving.dashboard import Dashboard, DeployError

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
    if (smoke := bundle.record.smoke) is not None:
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
    seen = {} if _asks_for_keys(recipe) else served(endpoint, folder, bundle, SMOKE)
    try:
        registry.set_tags(name, version, words(seen), registry.ASK_SECONDS)
    except JobError as error:  # it is deployed all the same
        log.warning("%s", error)
    return Deployed(release.uri, endpoint, gate.figures(release, recipe.budget) | seen, accepted)


def _asks_for_keys(recipe: Recipe) -> bool:
    if recipe.serving.keys is None:
        return False
    log.info("%s asks for an API key, of which a job has none: how fast it answers is not measured", recipe.service)
    return True


def remove(recipe: Recipe) -> None:
    """Take the recipe's service away and leave the others. Raises `JobError` where it is not deployed."""
    with _in_one_line():
        deployment.undeploy(*session.dashboard(), recipe.serving, recipe.service, session.home() / "serving")
    log.info("%s is taken away; bundle=models:/<name>@%s brings it back", recipe.service, CHAMPION)


def check_serve(recipe: Recipe) -> None:
    """Refuse now what Serve cannot do beside what runs, such as to listen on a taken port; after `session.connect`.

    So is a model of the recipe's name where its service runs another, and a file of API keys that cannot be used.
    """
    deployment.check_keys(recipe.serving)
    with _in_one_line():
        deployed = Dashboard(*session.dashboard(), recipe.serving).check()
        files = {name: deployment.keys_of(each) for name, each in deployed.items()}
        deployment.one_key_file(files | {recipe.service: recipe.serving.keys})
    running = deployed.get(recipe.service)
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


if __name__ == "__main__":
    main(run, takes=["bundle", "remove"])
