"""Which search is found, and what a job does with trials that were made before."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster import registry, session, tracking
from cluster.record import Cluster
from cluster.registry import CHALLENGER
from cluster.session import JobError
from configs.folder import commit
from configs.folder import replace as replace_folder
from configs.schema.recipe import Recipe
from jobs.data.prepared import MANIFEST, Prepared
from jobs.trials import found_already, judged, search_key, trials_of
from jobs.tune import tune
from serving.bundle import bundle_digest, with_metrics
from serving.runtime import load_bundle
from tests.faults.marks import fault
from tests.jobs.tunes import GOOD, PREPARED, TEACHER, changed
from tests.tiny.bundles import write_tiny_bundle
from tuning.pareto import Trial


@pytest.mark.parametrize(
    "change",
    [
        {"search": {"seed": 3}},
        {"search": {"space": {"student.layers": {"choice": [1, 2]}}}},
        {"budget": {"metric": "macro_f1"}},
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
        {"budget": {"min_retention": 0.5, "max_p95_ms": 5, "max_megabytes": 9, "margin": 2}},
        {"search": {"objective": "smallest"}},
        {"search": {"trials": 3, "concurrent": 2, "max_seconds": 60}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_search_depends_neither_on_what_comes_after_nor_on_what_judges_it(recipe: Recipe, change: dict[str, Any]):
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
        "judged": judged(recipe),
        "bundle": bundle_digest(tmp_path / "bundle"),
        "model_uri": "models:/a/1",
    }
    commit(tmp_path / "search", MANIFEST, lambda _: found)
    assert found_already(recipe, PREPARED) == found | {"files": {}}
    assert found_already(changed(recipe, {"serving": {"port": 8123}}), PREPARED) is not None
    for other in ({"budget": {"min_retention": 0.5}}, {"budget": {"margin": 0}}, {"search": {"objective": "fastest"}}):
        assert found_already(changed(recipe, other), PREPARED) is None
    assert found_already(changed(recipe, {"search": {"trials": 9}}), PREPARED) is not None  # of nothing one is all
    with_metrics(tmp_path / "bundle", {"accuracy": 0.1})
    assert found_already(recipe, PREPARED) is None


def test_a_finished_search_is_found_where_no_more_trials_are_asked_for(recipe: Recipe, tmp_path: Path):
    few, recipe, many = (
        changed(recipe, {"search": {"trials": trials, "space": {"student.layers": {"choice": [1, 2]}}}})
        for trials in (3, 4, 5)
    )
    write_tiny_bundle(tmp_path / "bundle")
    found = {"key": search_key(recipe, PREPARED), "judged": judged(recipe), "model_uri": None}
    commit(tmp_path / "search", MANIFEST, lambda _: found | {"bundle": bundle_digest(tmp_path / "bundle")})
    assert found_already(few, PREPARED) and found_already(recipe, PREPARED)
    assert found_already(many, PREPARED) is None


@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_a_search_whose_bundle_is_damaged_is_made_again_with_a_word(
    recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
):
    write_tiny_bundle(tmp_path / "bundle")
    found = {"key": search_key(recipe, PREPARED), "judged": judged(recipe), "model_uri": None}
    found["bundle"] = bundle_digest(tmp_path / "bundle")
    commit(tmp_path / "search", MANIFEST, lambda _: found)
    assert found_already(recipe, PREPARED) is not None
    graph = tmp_path / "bundle" / "model.onnx"
    content = bytearray(graph.read_bytes())
    content[-1] ^= 1
    graph.write_bytes(content) if damage == "flipped" else graph.unlink()
    assert found_already(recipe, PREPARED) is None
    assert "the search is made again: " in caplog.text and "model.onnx" in caplog.text


@pytest.fixture
def searched(on_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> list[Trial]:
    """What every search finds; the first one makes it."""
    trials: list[Trial] = []

    def search(_objective: Any, _spec: Any, folder: Path, *_: Any) -> list[Trial]:
        if not trials:
            for trial, seed, megabytes in (("a", 0, 3.0), ("b", 1, 2.0)):
                for name in ("student", "bundle"):
                    write_tiny_bundle(folder.parent / trial / name, seed=seed)
                metric = {"a": 0.995, "b": 0.9}[trial]
                figures = {"metric": metric, "retention": metric, "megabytes": megabytes}
                trials.append(Trial(trial, {}, GOOD | figures))
        return trials

    monkeypatch.setattr("jobs.tune.taught", lambda *_: TEACHER)
    monkeypatch.setattr(session, "check_capacity", lambda _: None)
    monkeypatch.setattr("jobs.trials.search", search)
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
            patch.setattr("jobs.trials.replace", put_and_die)
            with pytest.raises(KeyboardInterrupt):
                tune(recipe, PREPARED, tmp_path, run)
        assert searched and not (tmp_path / "search").exists()
        uri = tune(recipe, PREPARED, tmp_path, run)["model_uri"]
    assert (found_already(recipe, PREPARED) or {})["model_uri"] == uri


def labels_say(folder: Path) -> float:
    """The files of a tiny bundle, whose weights follow its seed."""
    return load_bundle(folder).predict(["where is my order"])[0]["score"]


def test_after_nothing_fits_a_lower_limit_judges_the_trials_that_were_made(
    recipe: Recipe,
    tmp_path: Path,
    searched: list[Trial],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("jobs.trials.time_again", lambda _, bundles, *__: {name: {"p95_ms": 2.0} for name in bundles})
    kept = trials_of(recipe, PREPARED)
    strict, mild, other = (
        changed(recipe, change)
        for change in (
            {"budget": {"min_retention": 0.999}},
            {"budget": {"min_retention": 0.85}},
            {"budget": {"min_retention": 0.85}, "search": {"objective": "accurate"}},
        )
    )
    with tracking.run("tune", experiment="tune", recipe=recipe.model_dump()) as run:
        with pytest.raises(JobError, match=r"nothing fits the budget; the nearest is trial a, .*min_retention=0\.999"):
            tune(strict, PREPARED, tmp_path, run)
        (kept / "search" / "ray").mkdir(parents=True)
        found = tune(mild, PREPARED, tmp_path, run)
        assert (found["winner"] or {})["id"] == "b" and not (kept / "search" / "ray").exists()
        assert labels_say(tmp_path / "bundle") == labels_say(kept / "b" / "bundle") != labels_say(kept / "a" / "bundle")
        assert "(asked for: 85.00%)" in (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")
        found = tune(recipe, PREPARED, tmp_path, run)
        assert (found["winner"] or {})["id"] == "a"
        assert found_already(mild, PREPARED) is None and found_already(recipe, PREPARED) is not None
        shutil.rmtree(kept / "b")
        with pytest.raises(JobError, match=r"/b/student: not there any more; remove .*trials-\w+ to search again$"):
            tune(mild, PREPARED, tmp_path, run)
        assert (tune(other, PREPARED, tmp_path, run)["winner"] or {})["id"] == "a"
    assert f"MB in {kept}, are kept for another budget or objective" in caplog.text


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
        monkeypatch.setattr("jobs.trials.search", lambda *_: pytest.fail("searched again"))
        uri = tune(recipe, PREPARED, tmp_path, run)["model_uri"]
    name, version = registry.resolve(uri)
    assert registry.alias_version(name, CHALLENGER) == version
    assert (found_already(recipe, PREPARED) or {})["model_uri"] == uri
