from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster import registry, session, tracking
from cluster.record import Cluster
from cluster.session import JobError
from configs.folder import commit
from configs.folder import replace as replace_folder
from configs.loader import merge
from jobs.data.prepared import MANIFEST, Prepared
from jobs.recipe import Recipe
from jobs.tune import CHALLENGER, _winner, found_already, search_key, tune
from serving.bundle import bundle_digest, with_metrics
from tests.faults import fault
from tests.serving.tiny import write_tiny_bundle
from tuning.pareto import Trial, choose
from tuning.spec import BudgetSpec

PREPARED = Prepared(Path("prepared"), {"key": "rows"})
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
