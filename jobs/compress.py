"""Compress the student: the recipe's steps in their order, an exported file, and the bundle that is served.

    ray job submit --working-dir . -- python -m jobs.compress --config configs/intent.yaml
    ... bundle=baseline:tfidf | bundle=baseline:static     a baseline as a bundle, instead of a student

Reads <output>/student (or `bundle=<folder>` of safetensors), writes <output>/bundle. A baseline is made of the training
rows, has no steps, is written to <output>/baseline, so that no winner of a search loses its place, and is registered as
models:/<name>@baseline.
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

from cluster import registry
from configs.folder import digest_json, read_manifest
from configs.schema.recipe import Recipe
from jobs.command import Result, main
from jobs.compression.bundle import compress
from jobs.data.prepared import MANIFEST as ROWS
from jobs.job import Way, job, validation_rows
from jobs.layout import (
    bundle_folder,
    output,
    outputs_folder,
    prepared_folder,
    student_folder,
    student_rows_folder,
    teacher_folder,
)
from jobs.measure.card import card
from jobs.measure.machine import machine_kind
from jobs.measure.measurement import measure_candidate
from jobs.models.reference import made_from, read_reference
from jobs.preflight import check_given
from jobs.stage import Stage, made
from jobs.versions import behaviour
from serving.bundle import MANIFEST, Bundle, bundle_digest, copy_bundle, read_description, with_metrics
from tuning.pareto import METRIC, RETENTION

ALIAS = "baseline"

log = logging.getLogger(__name__)


def run(recipe: Recipe, parent: str | None = None) -> Result:
    """The job: one MLflow run around the bundle, which is measured on the validation rows."""
    if recipe.baseline is None:
        check_given("bundle", recipe.bundle)
        with job("compress", recipe, parent) as way:
            return way.result(made(way, BUNDLE).metrics, bundle=str(bundle_folder(recipe)))
    with job("compress", recipe, parent, cluster=False) as way:
        return _baseline(way, recipe.baseline)


def _student(recipe: Recipe) -> Path:
    return Path(recipe.bundle) if recipe.bundle else student_folder(recipe)


def _key(way: Way) -> str:
    """Digest of the student, the steps, what they may look at, and what judges and measures them."""
    recipe, student = way.recipe, _student(way.recipe)
    read_reference(student, "python -m jobs.distill")
    rows = [prepared_folder(recipe), student_rows_folder(recipe), outputs_folder(recipe)]
    parts: dict[str, Any] = {"student": bundle_digest(student), "machine": machine_kind()}
    parts["rows"] = [read_manifest(each, ROWS)["key"] for each in rows if (each / ROWS).exists()]
    parts["compression"] = [step.keyed() for step in recipe.compression]
    sections = ("data", "distillation", "engine", "export", "budget")
    parts |= {name: getattr(recipe, name).keyed() for name in sections}
    if recipe.checks.enabled:
        parts["checks"] = recipe.checks.keyed()
    return digest_json(parts | {"name": recipe.name, "seed": recipe.seed} | behaviour("compress", "measure"))


def _make(way: Way, folder: Path, key: str) -> None:
    recipe, snapshot, origin = way.recipe, validation_rows(way), {"run_id": way.run.id, "key": key}
    compress(recipe, _student(recipe), folder, origin, judged=True, snapshot=snapshot)
    metrics, files = measure_candidate(recipe, folder, snapshot=snapshot)
    with_metrics(folder, metrics, functools.partial(card, recipe=recipe), files)


def _open(way: Way, folder: Path, key: str) -> Bundle | None:
    """The bundle's manifest. A bundle without metrics was not measured before the job was killed."""
    bundle = read_description(folder) if made_from(folder, key) else None
    return bundle if bundle and bundle.metrics else None


def _tell(way: Way, bundle: Bundle) -> None:
    if data := bundle.provenance["data"]:
        way.run.tag(slimcart__data=data)
    way.run.metrics.log(bundle.metrics)
    way.run.artifact(bundle_folder(way.recipe), "bundle")


BUNDLE: Stage[Bundle] = Stage("compress", bundle_folder, _key, _open, _make, tell=_tell)


def _baseline(way: Way, name: str) -> Result:
    """Make the baseline `name` <output>/baseline, measure it, and register it."""
    from jobs.measure import baselines
    from jobs.measure.teacher import teacher_metric

    recipe = way.recipe
    folder, teacher = Path(output(recipe), "baseline"), teacher_folder(recipe)
    there = teacher if (teacher / MANIFEST).exists() else None
    baselines.check_possible(name, there, False, "bundle")
    snapshot = validation_rows(way)
    source = baselines.Source(recipe.data, recipe.judged_by, there, snapshot)
    bundle = copy_bundle(baselines.find_or_make(recipe, name, source), folder, {"run_id": way.run.id})
    metrics, files = measure_candidate(recipe, folder, snapshot=snapshot)
    metrics[METRIC] = metrics[f"validation_{recipe.judged_by.metric}"]
    if whole := teacher_metric(recipe, bundle, source.validation, snapshot):
        metrics[RETENTION] = metrics[METRIC] / whole
    else:
        log.info("no teacher of these labels: what the baseline keeps of one is not known")
    with_metrics(folder, metrics, functools.partial(card, recipe=recipe), files)
    way.run.metrics.log(metrics)
    uri = registry.register(recipe.name, way.run, folder, {registry.BUNDLE_TAG: bundle_digest(folder)}, ALIAS)
    log.info("registered %s as %s", uri, ALIAS)
    return way.result(metrics, bundle=str(folder), model_uri=uri)


if __name__ == "__main__":
    main(run, takes=["bundle", "again"])
