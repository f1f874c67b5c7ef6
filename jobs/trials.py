"""Trials of a search: what each does, what they depend on, and what is kept of them."""

from __future__ import annotations

import functools
import json
import logging
import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from cluster import tracking
from cluster.outbox import Outbox
from cluster.session import JobError
from configs.folder import FolderError, digest_json, read_manifest, replace, write_synced
from configs.schema.recipe import Recipe
from jobs.compression.bundle import compress
from jobs.data.prepared import MANIFEST, Prepared
from jobs.data.snapshot import Snapshot
from jobs.data.source import check_unchanged, rows
from jobs.layout import bundle_folder, output, pool_folder, search_folder
from jobs.measure.card import card
from jobs.measure.machine import machine_kind
from jobs.measure.measurement import measure_candidate, time_again
from jobs.measure.retention import Teacher
from jobs.training.fit import distill, student_key
from jobs.versions import behaviour
from serving.bundle import bundle_digest, read_bundle, with_metrics
from tuning.journal import SCORE
from tuning.pareto import IN_SEARCH, Choice, Trial, finalists, parts, score, terms, timed_again
from tuning.search import Judge, search

log = logging.getLogger(__name__)


def tried(
    recipe: Recipe, objective: Callable[[dict[str, Any], str], dict[str, float]], folder: Path, run_id: str
) -> list[Trial]:
    """The trials of a search in `folder`, as they were measured when each had its turn."""
    judge = Judge(
        functools.partial(score, budget=recipe.budget, objective=recipe.search.objective),
        terms(recipe.budget, recipe.search.objective),
        functools.partial(parts, budget=recipe.budget, objective=recipe.search.objective),
    )
    return search(objective, recipe.search, folder / "search", judge, run_id)


def put_in_place(recipe: Recipe, winner: Trial, folder: Path) -> None:
    """Copy student and bundle of a trial to the output; the trial itself stays, as another budget may choose another.

    Raises `JobError` where somebody removed it.
    """
    for name in ("student", "bundle"):
        made, aside = folder / winner.id / name, folder / f"{winner.id}-{name}"
        if not made.exists():
            raise JobError(f"{made}: not there any more; remove {folder} to search again")
        shutil.rmtree(aside, ignore_errors=True)  # of a job that was killed then
        shutil.copytree(made, aside)
        if name == "bundle":
            with_metrics(aside, winner.metrics, functools.partial(card, recipe=recipe.at(dict(winner.values))))
        replace(aside, Path(output(recipe), name))


def keep(folder: Path, trials: Sequence[Trial]) -> None:
    """Keep what each trial in `folder` made that did not fail, and say what that takes on disk."""
    shutil.rmtree(folder / "search" / "ray", ignore_errors=True)
    for each in trials:
        if each.error:
            shutil.rmtree(folder / each.id, ignore_errors=True)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    words = "%d trials, %.0f MB in %s, are kept for another budget or objective, until this output is searched for else"
    log.info(words, sum(not each.error for each in trials), size / 1e6, folder)


def with_final_times(
    recipe: Recipe,
    trials: Sequence[Trial],
    folder: Path,
    choose: Callable[[Sequence[Trial]], Choice],
    snapshot: Snapshot | None = None,
) -> list[Trial]:
    """The trials of a search in `folder`, the figures of time of its finalists taken again, in turns in one process.

    Until then each was timed when its turn came, some beside noisier neighbours than others. What was measured is kept
    in the folder, and measured again only where there are other finalists. `snapshot`: the validation rows.
    """
    file = folder / "final.json"
    figures: dict[str, dict[str, float]] = json.loads(file.read_bytes()) if file.exists() else {}
    while True:
        judged = [timed_again(each, figures[each.id]) if each.id in figures else each for each in trials]
        wanted = {each.id for each in finalists(judged, recipe.budget, choose)} | figures.keys()
        bundles = {each.id: folder / each.id / "bundle" for each in trials if each.id in wanted}
        bundles = {name: bundle for name, bundle in bundles.items() if bundle.exists()}
        if not bundles.keys() - figures.keys():
            return judged
        log.info("timing trials %s again in turns", ", ".join(bundles))
        figures |= time_again(recipe, bundles, snapshot)
        for each in trials:
            if each.id in bundles:
                _record(recipe, timed_again(each, figures[each.id]), figures[each.id].keys(), bundles[each.id])
        write_synced(file, json.dumps(figures))


def _record(recipe: Recipe, trial: Trial, names: Collection[str], bundle: Path) -> None:
    """Write the final figures of a trial, by `names`, and those of its search into its bundle and its MLflow run."""
    p95 = trial.metrics["p95_ms"]
    log.info("trial %s: p95 %.3g ms in the search, %.3g ms now", trial.id, trial.metrics[f"p95_ms{IN_SEARCH}"], p95)
    chosen = recipe.at(dict(trial.values))
    made = with_metrics(bundle, dict(trial.metrics), functools.partial(card, recipe=chosen))
    if run_id := made.provenance.get("run_id"):
        record = Outbox(run_id, Path(output(recipe)))
        told = {name: value for name, value in trial.metrics.items() if name in names or name.endswith(IN_SEARCH)}
        record.log(told, step=1)  # MLflow shows the last value, and keeps the first
        record.close()


def check_rows(recipe: Recipe, teacher: Teacher, snapshot: Snapshot | None = None) -> None:
    """Raises `JobError` where the validation rows are not those that the teacher answered.

    They are read from their source, unless a `snapshot` holds those rows and no local source was written since.
    """
    if snapshot and snapshot.sample == teacher.sample and snapshot.looks_current(recipe.data):
        return
    check_unchanged(list(rows(recipe.data, "validation")), teacher.sample, recipe.data, "validation")


def trial(
    values: dict[str, Any],
    trial_id: str,
    *,
    recipe: dict[str, Any],
    prepared: str,
    teacher_outputs: str,
    folder: str,
    parent: str,
    teacher: Teacher,
    snapshot: Snapshot | None = None,
) -> dict[str, float]:
    """One candidate: distil -> compress -> export -> measure the file. Runs in a process of Ray Tune."""
    whole = Recipe.model_validate(recipe)
    check_rows(whole, teacher, snapshot)  # before hours of training, and again by the process that measures
    engine = whole.engine.model_copy(
        update={"cpus_per_worker": max(1, whole.engine.cpus_per_worker // whole.search.concurrent), "max_failures": 0}
    )
    chosen = whole.at(values).model_copy(update={"engine": engine})
    place = Path(folder, trial_id)
    shutil.rmtree(place, ignore_errors=True)  # what was left of it when it failed, or was killed
    with tracking.run(
        "trial",
        experiment=whole.tracking.experiment,
        recipe=chosen.model_dump(),
        parent=parent,
        name=f"trial {trial_id}",
    ) as run:
        run.tag(slimcart__trial=trial_id)
        examples = Prepared.open(Path(prepared), pool_folder(whole))
        distilled = distill(chosen, examples, Path(teacher_outputs), place / "student", run.id)
        bundle = place / "bundle"
        origin = {"run_id": run.id, "trial": trial_id, "values": values}
        compress(chosen, place / "student", bundle, origin, snapshot=snapshot)
        metrics, files = measure_candidate(chosen, bundle, teacher, snapshot)
        if (name := f"validation_{whole.judged_by.metric}") in distilled:  # in training nothing is written
            metrics["student_retention"] = distilled[name] / teacher.metric
        with_metrics(bundle, metrics, functools.partial(card, recipe=chosen), files)
        run.metrics.log(metrics | {SCORE: score(metrics, whole.budget, whole.search.objective)})  # of that day
        run.text("bundle.json", (bundle / "bundle.json").read_text(encoding="utf-8"))
        shutil.rmtree(place / ".work", ignore_errors=True)  # of the training
    return metrics


def trials_of(recipe: Recipe, prepared: Prepared) -> Path:
    """The folder of a search."""
    return Path(output(recipe), ".work", f"trials-{search_key(recipe, prepared)[:16]}")


def search_key(recipe: Recipe, prepared: Prepared) -> str:
    """Digest of what the trials of a search do, and are drawn from: not of how many they are, nor of what judges them.

    A step may go by a limit of the budget (its `max_loss`): what it did under that of its day is measured as it is.
    """
    parts: dict[str, Any] = {"export": recipe.export.model_dump(), "metric": recipe.judged_by.metric}
    parts["search"] = recipe.search.model_dump(include={"algorithm", "scheduler", "seed", "space"})
    parts["name"] = recipe.name  # of the model it is registered as
    if recipe.checks.enabled:
        parts["checks"] = recipe.checks.keyed()
    parts["compression"] = [spec.model_dump() for spec in recipe.compression]
    parts |= {"student": student_key(recipe, prepared), "machine": machine_kind()}
    return digest_json(parts | behaviour("compress", "measure", "search"))


def judged(recipe: Recipe) -> dict[str, Any]:
    """What decides between the trials of a search, and how many there were to be."""
    trials = recipe.search.trials if recipe.search.space else 1
    return (
        terms(recipe.budget, recipe.search.objective) | {"trials": trials} | recipe.search.rules | behaviour("choose")
    )


def found_already(recipe: Recipe, prepared: Prepared) -> dict[str, Any] | None:
    """The manifest of a finished search whose inputs did not change and whose bundle is still in its place, whole.

    One that was judged otherwise, or has fewer trials, is no such search: `tune` goes on from its trials. Its
    `model_uri` is None where the winner could not be registered.
    """
    folder, bundle = search_folder(recipe), bundle_folder(recipe)
    if not (folder / MANIFEST).exists() or not (bundle / "bundle.json").exists():
        return None
    try:
        found = read_manifest(folder, MANIFEST)
        read_bundle(bundle)
    except FolderError as error:
        log.warning("the search is made again: %s", error)
        return None
    same = found.get("key") == search_key(recipe, prepared) and found.get("bundle") == bundle_digest(bundle)
    wanted, before = judged(recipe), found.get("judged", {})
    enough = before.get("trials", 0) >= wanted["trials"]
    return found if same and enough and {**before, "trials": wanted["trials"]} == wanted else None


def _winner(choice: Choice, trials: list[Trial], folder: Path) -> Trial:
    if choice.winner is not None:
        return choice.winner
    if choice.nearest is None:
        raise JobError(
            f"all {len(trials)} trials failed; the first: {trials[0].error if trials else 'none was started'}"
        )
    raise JobError(
        f"nothing fits the budget; the nearest is trial {choice.nearest.id}, {choice.reasons[choice.nearest.id]} "
        f"(its bundle: {folder / choice.nearest.id / 'bundle'})"
    )
