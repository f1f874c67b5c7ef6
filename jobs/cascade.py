"""Join two bundles into one: the first answers what it is sure of, the second the rest.

    ray job submit --working-dir . -- python -m jobs.cascade --config configs/intent.yaml cascade.first=<bundle>
    ... cascade.second=<bundle>     instead of <output>/bundle
    ... cascade.max_loss=0.002      of the second's accuracy, instead of budget.min_retention of the teacher's

Both are exported classifiers of the same labels. On the validation rows their probabilities are calibrated, and the
threshold is chosen: the lowest one with which the cascade is accurate enough, with `budget.margin` standard errors of
what it loses against the second to spare, as other rows are lost by chance. Writes <output>/cascade, a bundle like
any other, and registers it as models:/<name>@cascade.
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

from cluster import registry
from configs.folder import digest_json
from configs.loader import UsageError
from configs.schema.recipe import Recipe
from configs.schema.tasks import TASKS
from jobs.command import Result, main
from jobs.compression.cascade import cascade, check_accuracy
from jobs.job import Way, job, validation_rows
from jobs.layout import bundle_folder, cascade_folder, teacher_folder
from jobs.measure.answers import FIRST_SHARE
from jobs.measure.card import card
from jobs.measure.machine import machine_kind
from jobs.measure.measurement import measure_candidate
from jobs.models.reference import made_from
from jobs.preflight import check_given
from jobs.stage import Stage, made
from jobs.versions import behaviour
from serving.bundle import MANIFEST, Bundle, bundle_digest, read_description, with_metrics
from serving.cascade import check_pair
from serving.runtimes import read_servable
from tuning.pareto import METRIC, RETENTION

ALIAS = "cascade"

log = logging.getLogger(__name__)


def run(recipe: Recipe, parent: str | None = None) -> Result:
    """The job: one MLflow run around `cascade`, with the bundle measured on the validation rows and registered."""
    if recipe.cascade.first is None:
        raise UsageError("cascade.first: missing; give a small exported bundle: its folder, or models:/<name>@<alias>")
    chosen_by = TASKS[recipe.task].metric
    if (metric := recipe.budget.metric) not in (None, chosen_by):
        raise UsageError(f"budget.metric: {metric!r}: a cascade's threshold is chosen by {chosen_by}; leave it out")
    for field, given in (("first", recipe.cascade.first), ("second", recipe.cascade.second)):
        check_given(f"cascade.{field}", given, uri=True)
    check_given("teacher.bundle", recipe.teacher.bundle)
    with job("cascade", recipe, parent, cluster=False) as way:
        bundle = made(way, JOINED)
        folder = cascade_folder(recipe)
        uri = registry.register_once(recipe.name, way.run, folder, bundle_digest(folder), ALIAS)
        return way.result(bundle.metrics, bundle=str(folder), model_uri=uri)


def _parts(way: Way) -> tuple[Path, Path]:
    """The folders of the two bundles, fetched once where they are registered models."""
    spec = way.recipe.cascade
    assert spec.first is not None
    first, second = spec.first, spec.second or str(bundle_folder(way.recipe))
    return way.once("parts", lambda: (registry.folder(first, MANIFEST), registry.folder(second, MANIFEST)))


def _key(way: Way) -> str:
    """Digest of the two bundles, the validation rows, the teacher and what decides how accurate the cascade is."""
    recipe, teacher = way.recipe, teacher_folder(way.recipe)
    check_pair(*map(read_servable, _parts(way)))  # before rows are read
    parts: dict[str, Any] = {"bundles": [bundle_digest(each) for each in _parts(way)], "name": recipe.name}
    parts |= {"rows": list(validation_rows(way).sample), "budget": recipe.budget.keyed()}
    parts |= {"cascade": recipe.cascade.max_loss, "machine": machine_kind()}
    parts["teacher"] = bundle_digest(teacher) if (teacher / MANIFEST).exists() else None
    return digest_json(parts | behaviour("cascade", "measure"))


def _make(way: Way, folder: Path, key: str) -> None:
    recipe = way.recipe
    snapshot = validation_rows(way)
    bundle = cascade(recipe, *_parts(way), folder, {"run_id": way.run.id, "key": key}, snapshot)
    metrics, files = measure_candidate(recipe, folder, snapshot=snapshot)
    metrics[METRIC] = metrics[f"validation_{TASKS[recipe.task].metric}"]
    if teacher := bundle.provenance["teacher_accuracy"]:
        metrics[RETENTION] = metrics[METRIC] / teacher
    with_metrics(folder, metrics, functools.partial(card, recipe=recipe), files)


def _open(way: Way, folder: Path, key: str) -> Bundle | None:
    """The bundle's manifest. A bundle without METRIC was not measured before the job was killed."""
    bundle = read_description(folder) if made_from(folder, key) else None
    return bundle if bundle and METRIC in bundle.metrics else None


def _tell(way: Way, bundle: Bundle) -> None:
    """Raises `JobError` where the cascade is less accurate than was asked."""
    if data := bundle.provenance["second"]["provenance"].get("data"):
        way.run.tag(slimcart__data=data)
    way.run.metrics.log(bundle.metrics)
    log.info(
        "the first model answers %.1f %% of the validation rows", 100 * bundle.metrics[f"validation_{FIRST_SHARE}"]
    )
    check_accuracy(bundle.metrics[METRIC], bundle.provenance["wanted_accuracy"])


JOINED: Stage[Bundle] = Stage("cascade", cascade_folder, _key, _open, _make, tell=_tell)


if __name__ == "__main__":
    main(run, takes=["again"])
