"""Finalists are timed once more, together."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from cluster import session, tracking
from cluster.record import Cluster
from configs.schema.recipe import Recipe
from jobs.trials import with_final_times
from jobs.tune import tune
from serving.bundle import read_bundle
from tests.jobs.tunes import GOOD, PREPARED, TEACHER, changed
from tests.tiny.bundles import write_tiny_bundle
from tuning.pareto import Trial, choose


class Noise:
    """What a search found beside neighbours, and the same bundles timed again without them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        p95 = {"a": (7.9, 9.0), "b": (8.3, 7.5), "c": (58.0, 7.3), "d": (30.0, 30.0)}  # in the search, alone
        metric = {"a": 0.90, "b": 0.91, "c": 0.93, "d": 0.94}
        self.alone = {name: {"p95_ms": ms, "busy": 0.0} for name, (_, ms) in p95.items()}
        self.trials = [
            Trial(name, {}, GOOD | {"metric": metric[name], "p50_ms": 7.0, "p95_ms": ms, "busy": 0.4 * (name == "c")})
            for name, (ms, _) in p95.items()
        ]
        self.asked: list[list[str]] = []
        self.folder = folder
        for each in self.trials:
            for made in ("student", "bundle"):
                write_tiny_bundle(folder / each.id / made, metrics=each.metrics)
        monkeypatch.setattr("jobs.trials.time_again", self.time_again)

    def time_again(self, recipe: Recipe, bundles: dict[str, Path], *_: Any) -> dict[str, dict[str, float]]:
        self.asked.append(list(bundles))
        return {name: self.alone[name] for name in bundles}

    def judged(self, recipe: Recipe) -> tuple[list[Trial], str | None]:
        choosing = functools.partial(choose, budget=recipe.budget, objective="accurate")
        trials = with_final_times(recipe, self.trials, self.folder, choosing)
        won = choosing(trials).winner
        return trials, won.id if won else None


@pytest.fixture
def noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Noise:
    return Noise(tmp_path / "trials", monkeypatch)


def test_the_choice_goes_by_times_that_the_finalists_had_together(recipe: Recipe, noise: Noise):
    """By those of the search `a` would win, which is too slow, and the best was thrown out as eight times slower."""
    recipe = changed(recipe, {"budget": {"max_p95_ms": 8}})
    trials, won = noise.judged(recipe)
    assert noise.asked == [["a", "b", "c"]]
    assert won == "c"
    final = {each.id: each.metrics for each in trials}
    assert (final["c"]["p95_ms"], final["c"]["p95_ms_in_search"], final["c"]["busy_in_search"]) == (7.3, 58.0, 0.4)
    assert final["d"] == noise.trials[-1].metrics
    assert read_bundle(noise.folder / "c" / "bundle").metrics == final["c"]


def test_finalists_are_timed_once_and_again_with_those_that_other_limits_make(recipe: Recipe, noise: Noise):
    """The winner's bundle may have been put in its place by then."""
    within = [changed(recipe, {"budget": {"max_p95_ms": limit}}) for limit in (8, 8, 30)]
    noise.judged(within[0])
    shutil.rmtree(noise.folder / "c")
    assert noise.judged(within[1])[1] == "c"
    assert noise.asked == [["a", "b", "c"]]
    noise.judged(within[2])
    assert noise.asked[1:] == [["a", "b", "d"]]


def test_final_times_decide_a_search_and_stand_beside_those_of_its_trials(
    recipe: Recipe, tmp_path: Path, noise: Noise, on_mlflow: Cluster, monkeypatch: pytest.MonkeyPatch
):
    def search(_objective: Any, _spec: Any, folder: Path, *_: Any) -> list[Trial]:
        shutil.copytree(noise.folder, folder.parent, dirs_exist_ok=True)
        return noise.trials

    monkeypatch.setattr("jobs.trials.search", search)
    monkeypatch.setattr("jobs.tune.taught", lambda *_: TEACHER)
    monkeypatch.setattr(session, "check_capacity", lambda _: None)
    recipe = changed(recipe, {"budget": {"max_p95_ms": 8}})
    with tracking.run("tune", experiment="tune", recipe=recipe.model_dump()) as run:
        winner = tune(recipe, PREPARED, tmp_path, run)["winner"]
    assert (winner["id"], winner["metrics"]["p95_ms"], winner["metrics"]["p95_ms_in_search"]) == ("c", 7.3, 58.0)
    assert read_bundle(tmp_path / "bundle").metrics["p95_ms"] == 7.3


def test_figures_of_the_search_and_final_ones_stand_in_a_trials_run(recipe: Recipe, noise: Noise, on_mlflow: Cluster):
    common: dict[str, Any] = {"experiment": "tune", "recipe": recipe.model_dump()}
    with tracking.run("tune", **common) as job:
        with tracking.run("trial", **common, parent=job.id, name="trial c") as run:
            run.metrics.log({"p95_ms": 58.0})
        bundle = noise.folder / "c" / "bundle"
        shutil.rmtree(bundle)
        write_tiny_bundle(bundle, provenance={"run_id": run.id})
        noise.judged(changed(recipe, {"budget": {"max_p95_ms": 8}}))
    told = MlflowClient(session.tracking_uri()).get_run(run.id).data.metrics
    assert (told["p95_ms"], told["p95_ms_in_search"]) == (7.3, 58.0)
