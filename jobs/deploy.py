"""Bring a registered model into service: gate, deploy, make it champion.

    ray job submit --working-dir . -- python -m jobs.deploy --config configs/intent.yaml
    ... bundle=models:/<name>@previous     goes back to the champion before
    ... remove=true                        takes the service away

Takes models:/<name>@challenger unless `bundle` says otherwise. A model without evidence that it fits the budget is
refused. The alias `champion` moves after the service answers; where either fails, both are put back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cluster import registry, session, tracking
from cluster.session import JobError
from configs.loader import UsageError
from jobs.command import Result, main
from jobs.prepare import output
from jobs.recipe import Recipe
from jobs.tune import CHALLENGER
from serving import deployment
from serving.bundle import MANIFEST, Bundle, bundle_bytes, read_bundle
from serving.dashboard import Dashboard, DeployError
from serving.runtime import load_bundle
from serving.spec import ServingSpec
from tuning.pareto import missed
from tuning.spec import BudgetSpec

CHAMPION, PREVIOUS = "champion", "previous"
SMOKE = "where is my order"

log = logging.getLogger(__name__)


def run(recipe: Recipe, parent: str | None = None) -> Result:
    """The job: one MLflow run around `deploy`."""
    with tracking.run(
        "deploy", experiment=recipe.tracking.experiment, recipe=recipe.model_dump(), parent=parent
    ) as run:
        session.connect()
        if recipe.remove:
            remove(recipe)
            return Result("deploy", run.id, output(recipe))
        uri, endpoint, evidence = deploy(recipe)
        run.metrics.log(evidence)
        run.tag(slimcart__model=uri, slimcart__endpoint=endpoint)
    return Result("deploy", run.id, output(recipe), evidence, model_uri=uri, endpoint=endpoint)


def deploy(recipe: Recipe) -> tuple[str, str, dict[str, float]]:
    """(model URI, endpoint, evidence) of the model that is now champion. Raises `JobError` where the gate is shut."""
    uri = recipe.bundle or f"models:/{recipe.name}@{CHALLENGER}"
    if not uri.startswith("models:"):
        raise UsageError(
            f"bundle: {uri!r}: deploy takes registered models, models:/<name>@<alias> or models:/<name>/<version>"
        )
    name, version = registry.resolve(uri)
    folder = registry.fetch(name, version, MANIFEST)
    bundle = read_bundle(folder)
    check_evidence(uri, evidence(bundle), recipe.budget)
    smoke(uri, folder, bundle)
    dashboard_url, headers = session.dashboard()
    places = session.home() / "serving"
    application = deployment.application(
        recipe.serving, recipe.service, folder, name, version, deployment.package_code(places / "code")
    )
    with _in_one_line():
        endpoint = deployment.deploy(
            dashboard_url, headers, recipe.serving, application, places, lambda: make_champion(name, version)
        )
    log.info("models:/%s/%s is %s and answers at %s", name, version, CHAMPION, endpoint)
    return f"models:/{name}/{version}", endpoint, evidence(bundle)


def remove(recipe: Recipe) -> None:
    """Take the recipe's service away and leave the others. Raises `JobError` where it is not deployed."""
    with _in_one_line():
        deployment.undeploy(*session.dashboard(), recipe.serving, recipe.service, session.home() / "serving")
    log.info("%s is taken away; bundle=models:/<name>@%s brings it back", recipe.service, CHAMPION)


def check_serve(serving: ServingSpec) -> None:
    """Refuse now what Serve cannot do beside what runs, such as to listen on a taken port; after `session.connect`."""
    with _in_one_line():
        Dashboard(*session.dashboard(), serving).check()


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


def make_champion(name: str, version: str) -> None:
    """Move the aliases to `version`, or leave them where they were. Raises `DeployError` with one line."""
    try:
        before = {alias: registry.alias_version(name, alias) for alias in (CHAMPION, PREVIOUS)}
        with _put_back(name, before):
            if before[CHAMPION] not in (None, version):
                registry.set_alias(name, PREVIOUS, before[CHAMPION])
            registry.set_alias(name, CHAMPION, version)
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
    """What the bundle's manifest says was measured on it, its size counted anew."""
    return {**bundle.metrics, "megabytes": bundle_bytes(bundle) / 1e6}


def check_evidence(uri: str, metrics: Mapping[str, float], budget: BudgetSpec) -> None:
    """Refuse a model that was not measured, or was measured outside the budget."""
    if words := missed(metrics, budget):
        raise JobError(f"{uri}: not deployed: {words}; nan means that it was never measured")


def smoke(uri: str, folder: Path, bundle: Bundle) -> None:
    """One request through the very runtime that will serve."""
    prediction = load_bundle(folder).predict([(SMOKE, SMOKE) if bundle.pairs else SMOKE])[0]
    if prediction["label"] not in bundle.labels or not 0 < prediction["score"] <= 1:
        raise JobError(
            f"{uri}: not deployed: the smoke request was answered {prediction['label']!r} {prediction['score']}"
        )


if __name__ == "__main__":
    main(run, takes=["bundle", "remove"], tasks=["classify"])
