"""The whole way: prepare, finetune, teach, tune, the final evaluation on the test file; with deploy=true also deploy.

    ray job submit --working-dir . -- python -m jobs.optimize --config configs/intent.yaml deploy=true

Run again with the same output, a finished stage whose inputs did not change is not run again. With deploy=true a winner
that the test rows say is outside the budget is not deployed: exit 1, and all else stays.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from cluster import resume, session, tracking
from configs.folder import read_manifest
from configs.schema.recipe import Recipe, SearchRecipe
from jobs import deploy, evaluate, finetune, prepare, teach, tune
from jobs.command import Result, main
from jobs.data import audit
from jobs.data.prepared import MANIFEST, Prepared
from jobs.layout import output, pool_folder, teacher_folder
from jobs.measure.served import SERVED
from jobs.models.reference import made_from
from jobs.preflight import check, check_possible
from jobs.training.fit import teacher_key

log = logging.getLogger(__name__)


def run(recipe: Recipe, parent: str | None = None) -> Result:
    """The job: one MLflow run, with one child for each stage that had to be run."""
    check(recipe)
    with tracking.run(
        "optimize", experiment=recipe.tracking.experiment, recipe=recipe.model_dump(), parent=parent
    ) as run:
        session.connect()
        if recipe.deploy:
            deploy.check_serve(recipe)
        session.check_capacity(recipe.engine)
        return optimize(recipe, run)


def optimize(recipe: Recipe, run: tracking.Run) -> Result:
    """Run the stages that are not done; each one that runs is an MLflow run of its own below `run`."""
    prepare.run(recipe, run.id)
    prepared = Prepared.open(Path(output(recipe), "prepared"), pool_folder(recipe))
    run.tag(slimcart__data=prepared.key)
    audit.look_at_test(recipe.data, prepared)
    check_possible(recipe)
    if recipe.teacher.bundle:
        _skip("finetune", f"teacher.bundle is {recipe.teacher.bundle}")
    else:
        made = made_from(teacher_folder(recipe), teacher_key(recipe, prepared))
        if not made or _broken_off(recipe, "finetune", run):
            finetune.run(recipe, run.id, prepared, made=made)
        else:
            _skip("finetune", "its inputs did not change")
    teach.run(recipe, run.id, prepared)
    found = tune.found_already(recipe, prepared)
    registered = found if found and found["model_uri"] else None
    if not registered or _broken_off(recipe, "tune", run):
        tune.run(recipe, run.id, prepared, found=registered)
    else:
        _skip("tune", "its inputs did not change")
    found = read_manifest(Path(output(recipe), "search"), MANIFEST)
    bundle = Path(output(recipe), "bundle")
    evaluation = _final_evaluation(recipe, bundle, run)
    page = tune.write_report(recipe, found, prepared, evaluation)
    run.artifact(page)
    uri, metrics = str(found["model_uri"]), evaluation.get("metrics", {})
    run.metrics.log(metrics)  # also where the gate is shut
    run.tag(slimcart__model=uri)
    endpoint = None
    if recipe.deploy:
        deployed = deploy.run(recipe.model_copy(update={"bundle": uri}), run.id)
        endpoint = deployed.endpoint
        seen = {name: deployed.metrics[name] for name in SERVED if name in deployed.metrics}
        run.artifact(tune.write_report(recipe, found, prepared, evaluation, seen))
        run.metrics.log(seen)
        metrics = {**metrics, **seen}
    run.tag(slimcart__endpoint=endpoint or "")
    return Result(
        "optimize",
        run.id,
        output(recipe),
        audit.faults(prepared) | metrics,
        bundle=str(bundle),
        model_uri=uri,
        endpoint=endpoint,
        report=str(page),
    )


def _final_evaluation(recipe: Recipe, bundle: Path, run: tracking.Run) -> dict[str, Any]:
    """The manifest of the evaluation on the test file, made or found; empty without a test file."""
    if recipe.data.test is None:
        log.warning("evaluate: no data.test, so no unseen row was asked whether the winner is inside the budget")
        return {}
    found = evaluate.evaluated_already(recipe, bundle)
    if found is None or _broken_off(recipe, "evaluate", run):
        evaluate.run(recipe, run.id, found=found)
        return read_manifest(Path(output(recipe), "evaluation"), MANIFEST)
    _skip("evaluate", "neither the models nor the test rows changed")
    evaluate.record(found)  # the registry may have forgotten it, or may not have been there
    print(found["table"], flush=True)
    return found


def _broken_off(recipe: Recipe, stage: str, run: tracking.Run) -> bool:
    """Whether the stage was killed between its last file and the end of its MLflow run."""
    return resume.broken_off(Path(output(recipe)), stage, run.id)


def _skip(stage: str, reason: str) -> None:
    log.info("%s: not run again, %s", stage, reason)


if __name__ == "__main__":
    main(run, takes=["deploy"], kind=SearchRecipe)
