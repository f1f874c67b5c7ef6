"""The whole way: prepare, finetune, teach, tune, the final evaluation on the test file; with deploy=true also deploy.

    ray job submit --working-dir . -- python -m jobs.optimize --config configs/intent.yaml deploy=true

Run again with the same output, a finished stage whose inputs did not change is not run again.
"""

from __future__ import annotations

import logging
from pathlib import Path

from cluster import session, tracking
from configs.loader import UsageError
from jobs import deploy, evaluate, finetune, prepare, teach, tune
from jobs.command import Result, main
from jobs.models.reference import made_from
from jobs.prepare import output
from jobs.recipe import Recipe

log = logging.getLogger(__name__)


def run(recipe: Recipe, parent: str | None = None) -> Result:
    """The job: one MLflow run, with one child for each stage that had to be run."""
    check_test_exists(recipe)
    with tracking.run(
        "optimize", experiment=recipe.tracking.experiment, recipe=recipe.model_dump(), parent=parent
    ) as run:
        session.connect()
        session.check_capacity(recipe.engine)
        result = optimize(recipe, run)
        run.metrics.log(result.metrics)
        run.tag(slimcart__model=result.model_uri or "", slimcart__endpoint=result.endpoint or "")
    return result


def optimize(recipe: Recipe, run: tracking.Run) -> Result:
    """Run the stages that are not done; each one that runs is an MLflow run of its own below `run`."""
    recipe = recipe.model_copy(update={"bundle": None})
    prepare.run(recipe, run.id)
    prepared = prepare.prepare(recipe)
    run.tag(slimcart__data=prepared.key)
    if recipe.teacher.bundle:
        _skip("finetune", f"teacher.bundle is {recipe.teacher.bundle}")
    elif made_from(finetune.teacher_folder(recipe), finetune.teacher_key(recipe, prepared)):
        _skip("finetune", "its inputs did not change")
    else:
        finetune.run(recipe, run.id)
    teach.run(recipe, run.id)
    if (found := tune.found_already(recipe, prepared)) is not None:
        _skip("tune", "its inputs did not change")
        uri = str(found["model_uri"])
    else:
        uri = str(tune.run(recipe, run.id).model_uri)
    metrics: dict[str, float] = {}
    bundle = Path(output(recipe), "bundle")
    if recipe.data.test is None:
        log.info("evaluate: no data.test, so there is no final evaluation")
    elif (evaluation := evaluate.evaluated_already(recipe, bundle)) is not None:
        _skip("evaluate", "neither the models nor the test rows changed")
        print(evaluation["table"], flush=True)
        metrics = evaluation["metrics"]
    else:
        metrics = evaluate.run(recipe, run.id).metrics
    endpoint = deploy.run(recipe.model_copy(update={"bundle": uri}), run.id).endpoint if recipe.deploy else None
    return Result(
        "optimize",
        run.id,
        output(recipe),
        metrics,
        bundle=str(bundle),
        model_uri=uri,
        endpoint=endpoint,
        report=str(Path(output(recipe), "report.html")),
    )


def check_test_exists(recipe: Recipe) -> None:
    """A misspelt test file is refused now, not after an hour of training; it is not opened."""
    test = recipe.data.test
    if test and test.startswith("/") and not Path(test).is_file():
        raise UsageError(f"data.test: {test}: no such file")


def _skip(stage: str, reason: str) -> None:
    log.info("%s: not run again, %s", stage, reason)


if __name__ == "__main__":
    main(run)
