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
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster import registry, session, tracking, version
from configs.loader import UsageError
from configs.schema.recipe import Recipe
from configs.schema.runtimes import forms
from jobs.command import Result, main
from jobs.finetune import teacher_folder
from jobs.measure.card import card
from jobs.measure.fresh import measure_candidate
from jobs.models.reference import check_given, read_reference
from jobs.prepare import output
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
        made = compress(recipe, student, folder, {"run_id": run.id}, judged=True)
        if data := made.provenance["data"]:
            run.tag(slimcart__data=data)
        metrics = measure_candidate(recipe, folder)
        with_metrics(folder, metrics, functools.partial(card, recipe=recipe))
        run.metrics.log(metrics)
        run.artifact(folder, "bundle")
    return Result("compress", run.id, output(recipe), metrics, bundle=str(folder))


def _baseline(recipe: Recipe, name: str, run: tracking.Run) -> Result:
    """Make the baseline `name` <output>/baseline, measure it, and register it."""
    from jobs.cascade import teacher_metric
    from jobs.measure import baselines

    folder, teacher = Path(output(recipe), "baseline"), teacher_folder(recipe)
    there = teacher if (teacher / MANIFEST).exists() else None
    baselines.check_possible(name, there, "bundle")
    source = baselines.Source(recipe.data, recipe.judged_by, there)
    made = copy_bundle(baselines.find_or_make(recipe, name, source), folder, {"run_id": run.id})
    metrics = measure_candidate(recipe, folder)
    metrics[METRIC] = metrics[f"validation_{recipe.judged_by.metric}"]
    if whole := teacher_metric(recipe, made, source.validation):
        metrics[RETENTION] = metrics[METRIC] / whole
    else:
        log.info("no teacher of these labels: what the baseline keeps of one is not known")
    with_metrics(folder, metrics, functools.partial(card, recipe=recipe))
    run.metrics.log(metrics)
    uri = registry.register(recipe.name, run, folder, {registry.BUNDLE_TAG: bundle_digest(folder)}, ALIAS)
    log.info("registered %s as %s", uri, ALIAS)
    return Result("compress", run.id, output(recipe), metrics, bundle=str(folder), model_uri=uri)


def compress(
    recipe: Recipe, student: Path, folder: Path, provenance: Mapping[str, Any], judged: bool = False
) -> Bundle:
    """Make `folder` the bundle of `student` after all steps of the recipe.

    Raises `JobError` where, if `judged`, a step loses too much; the trials of a search are measured whole instead.
    """
    from jobs.compression import steps
    from jobs.compression.choice import choose, installed, write
    from jobs.compression.workplace import Workplace
    from jobs.models import decoder, encoder

    possible = installed(forms(recipe.export, recipe.task, recipe.compression))
    reference = read_reference(student, "python -m jobs.distill")
    if reference.task != recipe.task:
        raise UsageError(f"task: {recipe.task!r}: {student} is for task {reference.task!r}")
    load = decoder.load if recipe.task == "generate" else encoder.load
    with tempfile.TemporaryDirectory(prefix="slimcart-compress-") as between:
        workplace = Workplace(recipe, student, reference, Path(between), judged)
        runtimes = list(dict.fromkeys(form.runtime for form in possible))
        compressed = steps.compress(load(student), recipe.compression, workplace, runtimes)
        fields = reference.model_dump(exclude={"files", "metrics", "provenance"})
        chosen = choose(compressed, possible, workplace, fields)
        fields["provenance"] = {
            **provenance,
            "student": bundle_digest(student),
            **{name: reference.provenance.get(name) for name in ("student_spec", "teacher_model")},
            "data": reference.provenance.get("data"),
            "steps": [spec.model_dump(exclude_none=True) for spec in recipe.compression],
            "facts": compressed.files[chosen.form.runtime].facts | {"forms": chosen.facts},
            "code": version.code_version()[1],
        }
        return write(folder, chosen.form, chosen.file, workplace, fields)


if __name__ == "__main__":
    main(run, takes=["bundle"])
