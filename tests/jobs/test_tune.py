from __future__ import annotations

import functools
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from cluster import registry, session, tracking
from cluster.record import Cluster
from cluster.registry import CHALLENGER
from cluster.session import JobError
from configs.folder import commit
from configs.folder import replace as replace_folder
from configs.loader import merge
from configs.schema.recipe import Recipe
from configs.schema.search import BudgetSpec
from jobs.data import audit
from jobs.data.prepared import MANIFEST, Prepared
from jobs.data.source import Sample, rows, sample
from jobs.measure.retention import Teacher
from jobs.tune import (
    _winner,
    check_rows,
    found_already,
    judged,
    search_key,
    trial,
    trials_of,
    tune,
    with_final_times,
    write_report,
)
from serving.bundle import bundle_digest, read_bundle, with_metrics
from serving.runtime import load_bundle
from tests.faults import fault
from tests.serving.tiny import write_tiny_bundle
from tuning import report
from tuning.pareto import Trial, choose

READINGS = {"train": [1, 1, 0, 0], "validation": [1, 1, 0, 0]}
PREPARED = Prepared(Path("prepared"), {"key": "rows", "readings": READINGS, "left_out": {}})
TEACHER = Teacher(0.9, [0.9], Sample(1, "0"))
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


def test_a_search_without_a_winner_names_the_nearest_and_still_leaves_its_report(
    recipe: Recipe, tmp_path: Path, on_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
):
    recipe = changed(recipe, {"budget": {"max_megabytes": 0.001}})
    monkeypatch.setattr("jobs.tune.search", lambda *_: [Trial("a", {}, GOOD)])
    monkeypatch.setattr("jobs.tune.taught", lambda *_: TEACHER)
    monkeypatch.setattr(session, "check_capacity", lambda _: None)
    with (
        tracking.run("tune", experiment="tune", recipe=recipe.model_dump()) as run,
        pytest.raises(JobError, match=r"nothing fits the budget; the nearest is trial a, .*max_megabytes=0\.001"),
    ):
        tune(recipe, PREPARED, tmp_path, run)
    assert "No trial is inside the budget" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not (tmp_path / "search").exists()
    assert not (tmp_path / "bundle").exists()


def test_the_report_is_written_whole_and_written_again(recipe: Recipe, tmp_path: Path):
    found = {"winner": None, "teacher_metric": 0.9, "trials": []}
    before = {each.name for each in tmp_path.iterdir()}
    page = write_report(recipe, found, PREPARED)
    first = page.read_text(encoding="utf-8")
    assert first == report.render("tiny", found, recipe.budget, "cheapest", rows=audit.record_of(PREPARED))
    assert write_report(changed(recipe, {"name": "other"}), found, PREPARED) == page == tmp_path / "report.html"
    assert "other" in page.read_text(encoding="utf-8") != first
    assert {each.name for each in tmp_path.iterdir()} - before == {"report.html"}


def test_a_report_that_cannot_be_made_leaves_the_old_one(recipe: Recipe, tmp_path: Path):
    (tmp_path / "report.html").write_text("old")
    with pytest.raises(KeyError):
        write_report(recipe, {"trials": [{"metrics": {}, "error": None}], "winner": None}, PREPARED)
    assert (tmp_path / "report.html").read_text() == "old"


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
        monkeypatch.setattr("jobs.tune.time_again", self.time_again)

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

    monkeypatch.setattr("jobs.tune.search", search)
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


def labels_say(folder: Path) -> float:
    """Of a tiny bundle, whose weights follow its seed."""
    return load_bundle(folder).predict(["where is my order"])[0]["score"]


def test_after_nothing_fits_a_lower_limit_judges_the_trials_that_were_made(
    recipe: Recipe,
    tmp_path: Path,
    searched: list[Trial],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("jobs.tune.time_again", lambda _, bundles, *__: {name: {"p95_ms": 2.0} for name in bundles})
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
        monkeypatch.setattr("jobs.tune.search", lambda *_: pytest.fail("searched again"))
        uri = tune(recipe, PREPARED, tmp_path, run)["model_uri"]
    name, version = registry.resolve(uri)
    assert registry.alias_version(name, CHALLENGER) == version
    assert (found_already(recipe, PREPARED) or {})["model_uri"] == uri


def test_a_teacher_that_is_never_right_has_no_students(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jobs.tune.taught", lambda *_: TEACHER._replace(metric=0.0))
    monkeypatch.setattr(session, "check_capacity", lambda _: None)
    with pytest.raises(JobError, match=r"^the teacher is right on none of the validation rows: "):
        tune(recipe, PREPARED, tmp_path, Any)  # pyright: ignore[reportArgumentType] - no run is begun


def test_rows_that_changed_under_a_search_stop_it(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_cluster: Cluster
):
    """A trial says so before it trains; one that failed of it is no worse than the others, so nothing is chosen."""
    file = tmp_path / "validation.jsonl"
    file.write_text('{"text": "where is it", "label": "track"}\n')
    recipe = changed(recipe, {"data": {"validation": str(file)}})
    teacher = TEACHER._replace(sample=sample(list(rows(recipe.data, "validation"))))
    check_rows(recipe, teacher)
    file.write_text('{"text": "where is it", "label": "refund"}\n')
    words = r"^data\.validation: .*validation\.jsonl: changed since its rows were prepared \(1 rows as then, with other"
    told: dict[str, Any] = {
        "recipe": recipe.model_dump(),
        "prepared": "",
        "teacher_outputs": "",
        "folder": str(tmp_path),
    }
    with pytest.raises(JobError, match=words):
        trial({}, "01", **told, parent="", teacher=teacher)
    failed = Trial("b", {}, {}, "JobError: data.validation: changed")
    monkeypatch.setattr("jobs.tune.search", lambda *_: [Trial("a", {}, GOOD), failed])
    monkeypatch.setattr("jobs.tune.taught", lambda *_: teacher)
    monkeypatch.setattr(session, "check_capacity", lambda _: None)
    with (
        tracking.run("tune", experiment="tune", recipe=recipe.model_dump()) as run,
        pytest.raises(JobError, match=words),
    ):
        tune(recipe, PREPARED, tmp_path, run)
    assert not (tmp_path / "search").exists()


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
