from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster import session, tracking
from cluster.record import Cluster
from cluster.session import JobError
from configs.schema.recipe import Recipe
from configs.schema.search import BudgetSpec
from jobs.data import audit
from jobs.data.source import rows, sample
from jobs.trials import _winner, check_rows, trial
from jobs.tune import tune, write_report
from tests.jobs.tunes import GOOD, PREPARED, TEACHER, changed
from tuning import report
from tuning.pareto import Trial, choose


def test_a_search_without_a_winner_names_the_nearest_and_still_leaves_its_report(
    recipe: Recipe, tmp_path: Path, on_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
):
    recipe = changed(recipe, {"budget": {"max_megabytes": 0.001}})
    monkeypatch.setattr("jobs.trials.search", lambda *_: [Trial("a", {}, GOOD)])
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
    monkeypatch.setattr("jobs.trials.search", lambda *_: [Trial("a", {}, GOOD), failed])
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
