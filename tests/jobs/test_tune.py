from __future__ import annotations

import functools
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from cluster import registry, session, tracking
from cluster.record import Cluster
from cluster.session import JobError
from configs.folder import commit
from configs.folder import replace as replace_folder
from configs.loader import merge
from jobs.data.prepared import MANIFEST, Prepared
from jobs.recipe import Recipe
from jobs.tune import CHALLENGER, _winner, found_already, search_key, tune, with_final_times
from serving.bundle import bundle_digest, read_bundle, with_metrics
from tests.faults import fault
from tests.serving.tiny import write_tiny_bundle
from tuning.pareto import Trial, choose
from tuning.spec import BudgetSpec

READINGS = {"train": [1, 1, 0, 0], "validation": [1, 1, 0, 0]}
PREPARED = Prepared(Path("prepared"), {"key": "rows", "readings": READINGS, "left_out": {}})
GOOD = {"metric": 0.9, "retention": 1.0, "p95_ms": 2.0, "megabytes": 3.0}


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Its teacher is there."""
    write_tiny_bundle(tmp_path / "teacher")
    return Recipe(name="tiny", output=str(tmp_path))


def changed(recipe: Recipe, change: dict[str, Any]) -> Recipe:
    return Recipe.model_validate(merge(recipe.model_dump(), change))


@pytest.mark.parametrize(
    "change",
    [
        {"search": {"trials": 3}},
        {"search": {"space": {"student.layers": {"choice": [1, 2]}}}},
        {"budget": {"max_p95_ms": 5}},
        {"export": {"lengths": [16]}},
        {"compression": [{"step": "export"}]},
        {"student": {"layers": 1}},
        {"distillation": {"temperature": 2}},
        {"distillation": {"pool": {"rows": 9}}},
        {"engine": {"tokens_per_batch": 64}},
        {"seed": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_search_depends_on_what_its_trials_do(recipe: Recipe, change: dict[str, Any]):
    assert search_key(changed(recipe, change), PREPARED) != search_key(recipe, PREPARED)


def test_a_search_depends_on_the_pool_of_its_rows(recipe: Recipe):
    pooled = replace(PREPARED, pool=Prepared(Path("pool"), {"key": "pool"}))
    other = replace(PREPARED, pool=Prepared(Path("pool"), {"key": "other"}))
    assert len({search_key(recipe, rows) for rows in (PREPARED, pooled, other)}) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"serving": {"port": 8123}},
        {"tracking": {"experiment": "other"}},
        {"data": {"test": "other.jsonl"}},
        {"engine": {"max_failures": 0}},
        {"deploy": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_search_does_not_depend_on_what_comes_after_it(recipe: Recipe, change: dict[str, Any]):
    assert search_key(changed(recipe, change), PREPARED) == search_key(recipe, PREPARED)


def test_a_search_depends_on_its_rows_and_its_teacher(recipe: Recipe, tmp_path: Path):
    key = search_key(recipe, PREPARED)
    assert search_key(recipe, Prepared(Path("prepared"), {"key": "others"})) != key
    write_tiny_bundle(tmp_path / "teacher", seed=1)
    assert search_key(recipe, PREPARED) != key


def test_a_finished_search_is_found_until_its_inputs_or_its_bundle_change(recipe: Recipe, tmp_path: Path):
    assert found_already(recipe, PREPARED) is None
    write_tiny_bundle(tmp_path / "bundle")
    found = {
        "key": search_key(recipe, PREPARED),
        "bundle": bundle_digest(tmp_path / "bundle"),
        "model_uri": "models:/a/1",
    }
    commit(tmp_path / "search", MANIFEST, lambda _: found)
    assert found_already(recipe, PREPARED) == found | {"files": {}}
    assert found_already(changed(recipe, {"serving": {"port": 8123}}), PREPARED) is not None
    assert found_already(changed(recipe, {"budget": {"min_retention": 0.5}}), PREPARED) is None
    with_metrics(tmp_path / "bundle", {"accuracy": 0.1})
    assert found_already(recipe, PREPARED) is None


@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_a_search_whose_bundle_is_damaged_is_made_again_with_a_word(
    recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
):
    write_tiny_bundle(tmp_path / "bundle")
    found = {"key": search_key(recipe, PREPARED), "bundle": bundle_digest(tmp_path / "bundle"), "model_uri": None}
    commit(tmp_path / "search", MANIFEST, lambda _: found)
    assert found_already(recipe, PREPARED) is not None
    graph = tmp_path / "bundle" / "model.onnx"
    content = bytearray(graph.read_bytes())
    content[-1] ^= 1
    graph.write_bytes(content) if damage == "flipped" else graph.unlink()
    assert found_already(recipe, PREPARED) is None
    assert "the search is made again: " in caplog.text and "model.onnx" in caplog.text


def test_a_search_without_a_winner_names_the_nearest_and_still_leaves_its_report(
    recipe: Recipe, tmp_path: Path, on_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
):
    recipe = changed(recipe, {"budget": {"max_megabytes": 0.001}})
    monkeypatch.setattr("jobs.tune.search", lambda *_: [Trial("a", {}, GOOD)])
    monkeypatch.setattr("jobs.tune.taught", lambda *_: {"accuracy": 0.9})
    monkeypatch.setattr(session, "check_capacity", lambda _: None)
    with (
        tracking.run("tune", experiment="tune", recipe=recipe.model_dump()) as run,
        pytest.raises(JobError, match=r"nothing fits the budget; the nearest is trial a, .*max_megabytes=0\.001"),
    ):
        tune(recipe, PREPARED, tmp_path, run)
    assert "No trial is inside the budget" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not (tmp_path / "search").exists()
    assert not (tmp_path / "bundle").exists()


class Noise:
    """What a search found beside neighbours, and the same bundles timed again without them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        p95 = {"a": (7.9, 9.0), "b": (8.3, 7.5), "c": (58.0, 7.3), "d": (30.0, 30.0)}  # in the search, alone
        metric = {"a": 0.90, "b": 0.91, "c": 0.93, "d": 0.94}
        self.alone = {name: {"p95_ms": ms, "busy": 0.0} for name, (_, ms) in p95.items()}
        self.trials = [
            Trial(name, {}, GOOD | {"metric": metric[name], "p95_ms": ms, "busy": 0.4 * (name == "c")})
            for name, (ms, _) in p95.items()
        ]
        self.asked: list[list[str]] = []
        self.folder = folder
        for each in self.trials:
            write_tiny_bundle(folder / each.id / "bundle", metrics=each.metrics)
        monkeypatch.setattr("jobs.tune.time_again", self.time_again)

    def time_again(self, recipe: Recipe, bundles: dict[str, Path]) -> dict[str, dict[str, float]]:
        self.asked.append(list(bundles))
        return {name: self.alone[name] for name in bundles}

    def judged(self, recipe: Recipe) -> tuple[list[Trial], str | None]:
        choosing = functools.partial(choose, budget=recipe.budget)
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
    assert noise.judged(within[2])[1] == "d"
    assert noise.asked[1:] == [["a", "b", "d"]]


def test_figures_of_the_search_and_final_ones_stand_in_a_trials_run(recipe: Recipe, noise: Noise, on_cluster: Cluster):
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


@pytest.fixture
def searched(on_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> list[Trial]:
    """What every search finds; the first one makes it."""
    trials: list[Trial] = []

    def search(_objective: Any, _spec: Any, folder: Path) -> list[Trial]:
        if not trials:
            for name in ("student", "bundle"):
                write_tiny_bundle(folder.parent / "a" / name)
            trials.append(Trial("a", {}, GOOD))
        return trials

    monkeypatch.setattr("jobs.tune.taught", lambda *_: {"accuracy": 0.9})
    monkeypatch.setattr(session, "check_capacity", lambda _: None)
    monkeypatch.setattr("jobs.tune.search", search)
    return trials


@fault("driver killed")
@pytest.mark.parametrize("last", ["student", "bundle"])
def test_a_winner_that_was_being_put_in_its_place_is_put_there_by_the_next_job(
    recipe: Recipe, tmp_path: Path, searched: list[Trial], monkeypatch: pytest.MonkeyPatch, last: str
):
    def put_and_die(new: Path, folder: Path) -> None:
        replace_folder(new, folder)
        if folder.name == last:
            raise KeyboardInterrupt

    with tracking.run("tune", experiment="tune", recipe=recipe.model_dump()) as run:
        with monkeypatch.context() as patch:
            patch.setattr("jobs.tune.replace", put_and_die)
            with pytest.raises(KeyboardInterrupt):
                tune(recipe, PREPARED, tmp_path, run)
        assert searched and not (tmp_path / "search").exists()
        uri = tune(recipe, PREPARED, tmp_path, run)["model_uri"]
    assert (found_already(recipe, PREPARED) or {})["model_uri"] == uri


def test_a_winner_that_could_not_be_registered_is_registered_by_the_next_job_without_a_search(
    recipe: Recipe, tmp_path: Path, searched: list[Trial], monkeypatch: pytest.MonkeyPatch
):
    def away(*_: Any) -> str:
        raise JobError("not registered, but kept")

    with tracking.run("tune", experiment="tune", recipe=recipe.model_dump()) as run:
        with monkeypatch.context() as patch:
            patch.setattr(registry, "register", away)
            with pytest.raises(JobError, match="not registered, but kept"):
                tune(recipe, PREPARED, tmp_path, run)
        found = found_already(recipe, PREPARED)
        assert found is not None and found["model_uri"] is None
        monkeypatch.setattr("jobs.tune.search", lambda *_: pytest.fail("searched again"))
        uri = tune(recipe, PREPARED, tmp_path, run)["model_uri"]
    name, version = registry.resolve(uri)
    assert registry.alias_version(name, CHALLENGER) == version
    assert (found_already(recipe, PREPARED) or {})["model_uri"] == uri


def test_a_teacher_that_is_never_right_has_no_students(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jobs.tune.taught", lambda *_: {"accuracy": 0.0})
    monkeypatch.setattr(session, "check_capacity", lambda _: None)
    with pytest.raises(JobError, match=r"^the teacher is right on none of the validation rows: "):
        tune(recipe, PREPARED, tmp_path, Any)  # pyright: ignore[reportArgumentType] - no run is begun


def winner(*trials: Trial) -> Trial:
    return _winner(choose(trials, BudgetSpec(max_p95_ms=5)), list(trials), Path("/work"))


def test_the_winner_is_the_best_trial_inside_the_budget():
    trials = [Trial("a", {}, GOOD | {"metric": 0.8}), Trial("b", {}, GOOD), Trial("c", {}, {}, "ValueError: x")]
    assert winner(*trials).id == "b"


def test_without_a_winner_the_nearest_is_named_with_what_it_missed_and_its_bundle():
    with pytest.raises(JobError) as failed:
        winner(Trial("a", {}, GOOD | {"p95_ms": 9.0}), Trial("b", {}, GOOD | {"p95_ms": 6.0}))
    assert str(failed.value).startswith("nothing fits the budget; the nearest is trial b, outside the budget: p95_ms 6")
    assert str(failed.value).endswith("(its bundle: /work/b/bundle)")


def test_where_every_trial_failed_the_first_reason_is_named():
    with pytest.raises(JobError, match=r"^all 2 trials failed; the first: ValueError: x$"):
        winner(Trial("a", {}, {}, "ValueError: x"), Trial("b", {}, {}, "KeyError: y"))
    with pytest.raises(JobError, match=r"^all 0 trials failed; the first: none was started$"):
        winner()
