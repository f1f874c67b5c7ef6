"""Search distillation, compression and export together for the cheapest model inside the budget (search.objective).

    ray job submit --working-dir . -- python -m jobs.tune --config configs/intent.yaml search.trials=12

Every trial distils a student, compresses it, exports it and measures the exported file. Writes <output>/search (all
trials and the reason of the choice), <output>/student and <output>/bundle of the winner, and registers it as
challenger. Exit 1 with the nearest candidate where nothing fits the budget.
"""

from __future__ import annotations

import functools
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster import registry, session, tracking
from cluster.registry import CHALLENGER
from cluster.session import JobError
from configs.folder import commit, write_synced
from configs.schema.recipe import Recipe
from configs.schema.search_recipe import SearchRecipe
from jobs.command import Result, main
from jobs.data import audit
from jobs.data.preparation import prepare_student
from jobs.data.prepared import MANIFEST, Prepared
from jobs.data.snapshot import Snapshot, take_snapshot
from jobs.job import Way, job
from jobs.layout import bundle_folder, output, report_file, search_folder, teacher_folder
from jobs.measure import early
from jobs.measure.retention import Teacher, taught
from jobs.preflight import check_models, check_possible
from jobs.prepare import PREPARED, learned_rows
from jobs.stage import Stage, made
from jobs.teach import TAUGHT, training_rows
from jobs.trials import (
    _winner,
    check_rows,
    found_already,
    judged,
    keep,
    put_in_place,
    search_key,
    trial,
    trials_of,
    tried,
    with_final_times,
)
from serving.bundle import bundle_digest
from tuning import report
from tuning.pareto import choose

log = logging.getLogger(__name__)


def run(recipe: Recipe, parent: str | None = None) -> Result:
    """The job: one MLflow run with exactly one child per trial."""
    check_models(recipe)
    with job("tune", recipe, parent) as way:
        learned_rows(way)
        check_possible(recipe)
        found = made(way, SEARCH)
        return way.result(
            found["winner"]["metrics"],
            bundle=str(bundle_folder(recipe)),
            model_uri=found["model_uri"],
            report=str(report_file(recipe)),
        )


def _key(way: Way) -> str:
    return search_key(way.recipe, learned_rows(way))


def _make(way: Way, folder: Path, key: str) -> None:
    if way.recipe.again and way.verb == "tune":  # else the trials that were kept would be judged once more
        shutil.rmtree(trials_of(way.recipe, learned_rows(way)), ignore_errors=True)
    tune(way.recipe, learned_rows(way), made(way, TAUGHT), way.run)


def _open(way: Way, folder: Path, key: str) -> dict[str, Any] | None:
    """The manifest of a search whose winner is registered."""
    found = found_already(way.recipe, learned_rows(way))
    return found if found and found["model_uri"] else None


def _tell(way: Way, found: dict[str, Any]) -> None:
    way.run.tag(slimcart__data=learned_rows(way).key)
    way.run.metrics.log({f"winner_{name}": value for name, value in found["winner"]["metrics"].items()})
    way.run.tag(slimcart__winner=found["winner"]["id"], slimcart__model=found["model_uri"])
    if (page := report_file(way.recipe)).exists():
        way.run.artifact(page)


SEARCH: Stage[dict[str, Any]] = Stage("tune", search_folder, _key, _open, _make, (PREPARED, TAUGHT), _tell)


def tune(recipe: Recipe, prepared: Prepared, teacher_outputs: Path, run: tracking.Run) -> dict[str, Any]:
    """Search, choose, put the winner in its place and register it; returns the manifest of <output>/search."""
    before = found_already(recipe, prepared)
    if before and not before["model_uri"]:
        return _register(recipe, before, run, prepared)  # of this search MLflow did not take the winner
    session.check_capacity(recipe.engine)
    trials_folder = trials_of(recipe, prepared)
    _remove_others(trials_folder)
    choosing = functools.partial(choose, budget=recipe.budget, objective=recipe.search.objective)
    with take_snapshot(recipe.data, "validation", Path(output(recipe))) as snapshot:
        teacher = _teacher(recipe, prepared, teacher_outputs, snapshot)
        known = early.compare(recipe, prepared, teacher_folder(recipe), teacher.metric, run, snapshot)
        objective = functools.partial(
            trial,
            recipe=recipe.model_dump(),
            prepared=str(prepare_student(recipe, training_rows(recipe, prepared)).folder),
            teacher_outputs=str(teacher_outputs),
            folder=str(trials_folder),
            parent=run.id,
            teacher=teacher,
            snapshot=snapshot,
        )
        trials = tried(recipe, objective, trials_folder, run.id)
        if any(each.error for each in trials):
            check_rows(recipe, teacher)  # where they changed, trials failed that are no worse than others
        trials = with_final_times(recipe, trials, trials_folder, choosing, snapshot)
    choice = choosing(trials)
    for each in trials:
        log.info("trial %s %s", each.id, choice.reasons[each.id])
    found: dict[str, Any] = {
        "key": search_key(recipe, prepared),
        "judged": judged(recipe),
        "run_id": run.id,
        "metric": recipe.judged_by.metric,
        "teacher_metric": teacher.metric,
        "known": early.said(known, teacher.metric, recipe.judged_by.metric)[0] if known else None,
        "winner": None,
        "trials": [asdict(each) | {"reason": choice.reasons[each.id]} for each in trials],
    }
    keep(trials_folder, trials)
    if choice.winner is None:
        run.artifact(write_report(recipe, found, prepared))
    winner = _winner(choice, trials, trials_folder)
    put_in_place(recipe, winner, trials_folder)
    found |= {"winner": asdict(winner), "model_uri": None, "bundle": bundle_digest(bundle_folder(recipe))}
    commit(search_folder(recipe), MANIFEST, lambda _: found)
    return _register(recipe, found, run, prepared)


def _teacher(recipe: Recipe, prepared: Prepared, teacher_outputs: Path, validation: Snapshot) -> Teacher:
    """What students are held against. Raises `JobError` where there is nothing to keep."""
    teacher = taught(recipe, prepared, teacher_outputs, validation.rows())
    if teacher.metric <= 0:  # as 1 less an error rate may be
        raise JobError("the teacher is right on none of the validation rows: its students would have nothing to keep")
    return teacher


def _remove_others(trials_folder: Path) -> None:
    """Remove the trials of searches that nobody goes on with."""
    for other in trials_folder.parent.glob("trials-*"):
        if other != trials_folder:
            shutil.rmtree(other, ignore_errors=True)


def _register(recipe: Recipe, found: dict[str, Any], run: tracking.Run, prepared: Prepared) -> dict[str, Any]:
    """Make the winner of a search challenger; returns the search's manifest, which then names the model."""
    bundle = bundle_folder(recipe)
    tags = {registry.BUNDLE_TAG: found["bundle"], "slimcart.tune": run.id}
    uri = registry.register(recipe.name, run, bundle, tags, CHALLENGER)
    log.info("registered %s as %s", uri, CHALLENGER)
    manifest = commit(search_folder(recipe), MANIFEST, lambda _: found | {"model_uri": uri})
    write_report(recipe, manifest, prepared)
    return manifest


def write_report(
    recipe: Recipe,
    found: Mapping[str, Any],
    prepared: Prepared,
    evaluation: Mapping[str, Any] | None = None,
    served: Mapping[str, float] | None = None,
) -> Path:
    """<output>/report.html of a search, whole; see `tuning.report.render`."""
    page, learned_from = report_file(recipe), audit.record_of(prepared)
    budget, objective = recipe.budget, recipe.search.objective
    write_synced(page, report.render(recipe.name, found, budget, objective, evaluation, learned_from, served))
    return page


if __name__ == "__main__":
    main(run, takes=["again"], kind=SearchRecipe)
