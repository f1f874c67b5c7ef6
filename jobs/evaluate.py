"""Measure an exported bundle on the test file, beside its teacher: metric, latency, throughput, bytes, memory, energy,
share of the CPU's peak, and in which classes and slices it answers less well.

    ray job submit --working-dir . -- python -m jobs.evaluate --config configs/intent.yaml
    ... bundle=<folder> | bundle=models:/<name>@<alias>   data.test=<file>   teacher.bundle=<folder>
    ... data.slices='[channel, language]'

Everything is measured on the exported file in fresh processes with pinned threads; latencies of all contenders are
taken in turns within one process. Without `bundle=` the output's own student, what each compression step made of it
(`evaluation.steps`) and the baselines take part too. Of a registered bundle the registry keeps what the test rows said.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster import registry
from cluster.session import JobError
from configs.folder import read_manifest
from configs.schema.recipe import Recipe
from jobs.command import Result, main
from jobs.data.prepared import MANIFEST, has_key
from jobs.evaluation import (
    TakenRows,
    _contenders,
    check_inputs,
    check_test_rows,
    check_there,
    evaluate,
    evaluation_key,
    kinds_test,
    take_test_rows,
)
from jobs.job import Way, job
from jobs.layout import evaluation_folder, output, served_folder, teacher_folder
from jobs.measure.gate import Evidence, Tested
from jobs.preflight import check_given
from jobs.stage import Stage, made
from serving.bundle import MANIFEST as BUNDLE
from serving.bundle import read_bundle

log = logging.getLogger(__name__)


def run(recipe: Recipe, parent: str | None = None) -> Result:
    """The job: one MLflow run around the evaluation."""
    check_given("bundle", recipe.bundle, uri=True)
    check_given("teacher.bundle", recipe.teacher.bundle)
    with job("evaluate", recipe, parent, cluster=False) as way:
        evaluation = made(way, EVALUATION)
        say(evaluation)
        return way.result(figures(evaluation), tested=True, bundle=str(_bundle(way)))


def figures(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """All metrics of an evaluation, and by their plain names those of the winner that a budget goes by."""
    tested = Tested.model_validate(evaluation["tested"]) if evaluation["tested"] else None
    return evaluation["metrics"] | (tested.plain if tested else {})


def say(evaluation: Mapping[str, Any]) -> None:
    """Print the table, and have the registry know what the test rows said: it may have forgotten it."""
    record(evaluation)
    print(evaluation["table"], flush=True)


def _bundle(way: Way) -> Path:
    """The bundle under evaluation, fetched once where it is a registered model."""
    return way.once("bundle under evaluation", lambda: locate(way.recipe))


def _taken(way: Way) -> TakenRows:
    return way.once("test rows", lambda: way.held.enter_context(take_test_rows(way.recipe)))


def _key(way: Way) -> str:
    bundle = _bundle(way)
    check_there(bundle)
    description = read_bundle(bundle)
    check_inputs(way.recipe, description)
    test = check_test_rows(way.recipe, description, _taken(way).snapshot)
    further = kinds_test(way.recipe, bundle, description)
    return evaluation_key(way.recipe, _contenders(way.recipe, bundle, description), test.fingerprint, further)


def _make(way: Way, folder: Path, key: str) -> None:
    evaluate(way.recipe, _bundle(way), way.run.id, _taken(way))


def _open(way: Way, folder: Path, key: str) -> dict[str, Any] | None:
    """The manifest of the evaluation."""
    if not has_key(folder, MANIFEST, key):
        return None
    found = read_manifest(folder, MANIFEST)
    return found if "tested" in found else None


def _tell(way: Way, evaluation: dict[str, Any]) -> None:
    way.run.tag(slimcart__data=evaluation["fingerprint"])
    way.run.metrics.log(evaluation["metrics"])
    way.run.artifact(evaluation_folder(way.recipe))


EVALUATION: Stage[dict[str, Any]] = Stage("evaluate", evaluation_folder, _key, _open, _make, tell=_tell)


def locate(recipe: Recipe) -> Path:
    """The folder of the bundle under evaluation: `bundle`, fetched where it is a model URI, else <output>/bundle, or
    <output>/reply where the recipe asks for replies.

    Where the task has models evaluated that were not compressed, it may be <output>/student, or else the teacher.
    """
    if recipe.bundle is None:
        bundle, student = served_folder(recipe), Path(output(recipe), "student")
        if not recipe.judged_by.uncompressed or (bundle / BUNDLE).exists():
            return bundle
        return student if (student / BUNDLE).exists() else teacher_folder(recipe)
    return registry.folder(recipe.bundle, BUNDLE)


def record(found: Mapping[str, Any]) -> None:
    """Have the registry say what the test rows said, of every version that the evaluated bundle is registered as.

    Where MLflow does not take it, this is logged: `deploy` then finds no such evidence.
    """
    if found["tested"] is None:
        return
    evidence = Evidence(**found["tested"], bundle=found["bundle"], run=found["run_id"], at=found["at"])
    key, value = evidence.tag()
    try:
        for name, version in registry.versions_of(evidence.bundle):
            if evidence.retention is None and key in registry.tags(name, version):
                continue  # with a teacher these rows said more
            registry.set_tags(name, version, {key: value}, registry.ASK_SECONDS)
            log.info("models:/%s/%s has the evidence of these test rows", name, version)
    except JobError as error:
        log.warning("what the test rows said is not in the registry: %s; evaluate again before deploy", error)


if __name__ == "__main__":
    main(run, takes=["bundle", "again"])
