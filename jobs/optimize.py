"""The whole way: prepare, finetune, teach, tune, replies where the recipe asks for them, the final evaluation on the
test file; with deploy=true also deploy.

    ray job submit --working-dir . -- python -m jobs.optimize --config configs/intent.yaml deploy=true

Run again with the same output, a finished stage whose inputs did not change is not run again. With deploy=true a winner
that the test rows say is outside the budget is not deployed: exit 1, and all else stays.
"""

from __future__ import annotations

import logging
from typing import Any

from cluster import session
from configs.loader import UsageError
from configs.schema.recipe import Recipe
from configs.schema.search_recipe import SearchRecipe
from jobs import deploy, evaluate, reply
from jobs.command import Result, main
from jobs.data import audit
from jobs.evaluate import EVALUATION
from jobs.finetune import TEACHER
from jobs.job import Way, job, of_validation
from jobs.layout import served_folder
from jobs.measure.served import SERVED
from jobs.preflight import check, check_possible
from jobs.prepare import learned_rows
from jobs.stage import made
from jobs.tune import SEARCH, write_report

log = logging.getLogger(__name__)


def run(recipe: Recipe, parent: str | None = None) -> Result:
    """The job: one MLflow run, with one child for each stage that had to be run."""
    check(recipe)
    if recipe.deploy and "deploy" not in recipe.judged_by.verbs:
        raise UsageError(f"deploy: true: such models of task {recipe.task!r} are not deployed yet; leave it out")
    with job("optimize", recipe, parent, tracked=True) as way:
        if recipe.deploy:
            deploy.check_serve(recipe)
        session.check_capacity(recipe.engine)
        return optimize(way)


def optimize(way: Way) -> Result:
    """Make the stages that are not made, evaluate, report, and deploy where that is asked for."""
    recipe = way.recipe
    prepared = learned_rows(way)
    way.run.tag(slimcart__data=prepared.key)
    audit.look_at_test(recipe.data, prepared)
    check_possible(recipe)
    if recipe.teacher.bundle:
        log.info("finetune: not run, teacher.bundle is %s", recipe.teacher.bundle)
    else:
        made(way, TEACHER)
    search = made(way, SEARCH)
    uri = str(search["model_uri"]) if recipe.reply.column is None else reply.registered(way)
    evaluation = _final_evaluation(way)
    page = write_report(recipe, search, prepared, evaluation)
    way.run.artifact(page)
    metrics = evaluate.figures(evaluation) if evaluation else of_validation(search["winner"]["metrics"])
    way.run.metrics.log(evaluation.get("metrics", {}))  # also where the gate is shut
    way.run.tag(slimcart__model=uri)
    endpoint = None
    if recipe.deploy:
        deployed = deploy.run(recipe.model_copy(update={"bundle": uri}), way.run.id)
        endpoint = deployed.endpoint
        served = {name: deployed.metrics[name] for name in SERVED if name in deployed.metrics}
        way.run.artifact(write_report(recipe, search, prepared, evaluation, served))
        way.run.metrics.log(served)
        metrics = {**metrics, **served}
    way.run.tag(slimcart__endpoint=endpoint or "")
    return way.result(
        audit.faults(prepared) | metrics,
        tested=True,  # or named so
        bundle=str(served_folder(recipe)),
        model_uri=uri,
        endpoint=endpoint,
        report=str(page),
    )


def _final_evaluation(way: Way) -> dict[str, Any]:
    """The manifest of the evaluation on the test file, made or found; empty without a test file."""
    if way.recipe.data.test is None:
        log.warning("evaluate: no data.test, so no unseen row was asked whether the winner is inside the budget")
        return {}
    evaluation = made(way, EVALUATION)
    evaluate.say(evaluation)
    return evaluation


if __name__ == "__main__":
    main(run, takes=["deploy"], kind=SearchRecipe)
