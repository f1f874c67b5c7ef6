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

from cluster import registry, session, tracking
from configs.schema.recipe import Recipe
from jobs.command import Result, main
from jobs.compression.bundle import compress
from jobs.data.snapshot import take_snapshot
from jobs.layout import output, teacher_folder
from jobs.measure.card import card
from jobs.measure.measurement import measure_candidate
from jobs.preflight import check_given
from serving.bundle import MANIFEST, Bundle, bundle_digest, copy_bundle, with_metrics
from tuning.pareto import METRIC, RETENTION

ALIAS = "baseline"

log = logging.getLogger(__name__)


def run(recipe: Recipe, parent: str | None = None) -> Result:
    """The job: one MLflow run around `compress`, with the bundle measured on the validation rows."""
    name = recipe.baseline
    if name is None:
        check_given("bundle", recipe.bundle)
    with tracking.run(
        "compress", experiment=recipe.tracking.experiment, recipe=recipe.model_dump(), parent=parent
    ) as run:
        if name is not None:
            return _baseline(recipe, name, run)
        session.connect()
        folder = Path(output(recipe), "bundle")
        student = Path(recipe.bundle or Path(output(recipe), "student"))
        made, metrics = compress_and_measure(recipe, student, folder, run.id)
        if data := made.provenance["data"]:
            run.tag(slimcart__data=data)
        with_metrics(folder, metrics, functools.partial(card, recipe=recipe))
        run.metrics.log(metrics)
        run.artifact(folder, "bundle")
    return Result("compress", run.id, output(recipe), metrics, bundle=str(folder))


def compress_and_measure(recipe: Recipe, student: Path, folder: Path, run_id: str) -> tuple[Bundle, dict[str, float]]:
    """Make `folder` the bundle of a student; returns it and its figures of the validation rows."""
    with take_snapshot(recipe.data, "validation", Path(output(recipe))) as snapshot:
        made = compress(recipe, student, folder, {"run_id": run_id}, judged=True, snapshot=snapshot)
        return made, measure_candidate(recipe, folder, snapshot=snapshot)


def _baseline(recipe: Recipe, name: str, run: tracking.Run) -> Result:
    """Make the baseline `name` <output>/baseline, measure it, and register it."""
    from jobs.measure import baselines
    from jobs.measure.teacher import teacher_metric

    folder, teacher = Path(output(recipe), "baseline"), teacher_folder(recipe)
    there = teacher if (teacher / MANIFEST).exists() else None
    baselines.check_possible(name, there, "bundle")
    with take_snapshot(recipe.data, "validation", Path(output(recipe))) as snapshot:
        source = baselines.Source(recipe.data, recipe.judged_by, there, snapshot)
        made = copy_bundle(baselines.find_or_make(recipe, name, source), folder, {"run_id": run.id})
        metrics = measure_candidate(recipe, folder, snapshot=snapshot)
        whole = teacher_metric(recipe, made, source.validation, snapshot)
    metrics[METRIC] = metrics[f"validation_{recipe.judged_by.metric}"]
    if whole:
        metrics[RETENTION] = metrics[METRIC] / whole
    else:
        log.info("no teacher of these labels: what the baseline keeps of one is not known")
    with_metrics(folder, metrics, functools.partial(card, recipe=recipe))
    run.metrics.log(metrics)
    uri = registry.register(recipe.name, run, folder, {registry.BUNDLE_TAG: bundle_digest(folder)}, ALIAS)
    log.info("registered %s as %s", uri, ALIAS)
    return Result("compress", run.id, output(recipe), metrics, bundle=str(folder), model_uri=uri)


if __name__ == "__main__":
    main(run, takes=["bundle"])
