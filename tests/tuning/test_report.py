from __future__ import annotations

import re

import pytest

from configs.schema.search import BudgetSpec, Objective, Weights
from tests.tuning.pages import BUDGET, EVALUATION, TRIALS, Page, manifest, page, trial
from tuning import report
from tuning.pareto import Trial, timed_again


def test_the_page_names_the_winner_why_it_won_and_its_values():
    words = page().words()
    assert "which chose the winner. 5 trials: 2 inside the budget, 2 outside, 1 failed." in words
    assert "Winner: trial d_winner Won: most accurate of 2 inside the budget by metric: metric 0.9475" in words
    assert page().tables[0] == [
        ["student.layers", "2"],
        ["prune.sparsity", "0.3"],
        ["distillation.learning_rate", "8.2e-05"],
    ]


def test_a_winner_that_no_unseen_row_was_asked_of_is_said_to_be():
    words = page().words()
    assert words.index("No unseen row was asked: all figures here are of validation rows") < words.index("5 trials:")


def test_the_winners_figures_stand_against_the_limits():
    words = page().words()
    assert "retention 99.74% at least 99.00%, 0.7% to spare" in words
    assert "p95 latency 1.50 ms at most 2.00 ms, 25.0% to spare" in words
    assert "size 15.0 MB at most 20.0 MB, 25.0% to spare" in words
    assert "size 15.0 MB no limit" in page(budget=BudgetSpec(min_retention=0.9, max_p95_ms=2.0)).words()


@pytest.mark.parametrize(
    ("objective", "tiles"),
    [
        ("cheapest", "p95_ms x megabytes 10 what was minimised metric 0.9440 on the validation rows"),
        ("accurate", "metric 0.9475 what was maximised retention 99.74% at least 99.00%"),
        ("fastest", "p95 latency 1.00 ms what was minimised; at most 2.00 ms, 50.0% to spare"),
        ("smallest", "size 10.0 MB what was minimised; at most 20.0 MB, 50.0% to spare"),
        (Weights(metric=2, p95_ms=1), "metric^2 / p95_ms 0.891 what was maximised metric 0.9440"),
    ],
    ids=str,
)
def test_the_first_figures_say_what_was_looked_for(objective: Objective, tiles: str):
    assert tiles in page(objective=objective).words()


def test_the_winner_stands_first_and_the_picture_says_what_it_is_the_best_of():
    """The other is as cheap up to noise."""
    found = page([trial("lucky", 0.943), trial("better", 0.945, p95=1.01)], objective="cheapest")
    assert [row[0] for row in found.tables[-1][1:]] == ["better", "lucky"]
    assert "Filled: inside the budget, ringed: the winner, the cheapest of them." in found.words()


def test_the_margin_stands_beside_what_is_kept():
    safe = Trial("safe", {}, {**trial("", 0.9475).metrics, "retention_se": 0.004})
    assert (
        "retention 99.74% at least 99.00%, 0.3% to spare after 1 standard error (0.40%)"
        in page([safe], BUDGET.model_copy(update={"min_retention": 0.99, "margin": 1.0})).words()
    )


def test_trials_of_an_earlier_run_name_it():
    found = manifest(TRIALS, BUDGET)
    for each, by in zip(found["trials"], ["before", "5c0de0e0aa5f", "before", "", "earlier"], strict=True):
        each["by"] = by
    words = Page(report.render("intent", found, BUDGET, "accurate")).words()
    assert "MLflow run5c0de0e0aa5f MLflow runs of trialsbefore, earlier modelmodels:/intent/7" in words
    assert "MLflow runs of trials" not in page().words()


def test_the_metric_has_its_name():
    found = Page(report.render("intent", manifest(TRIALS, BUDGET) | {"metric": "macro_f1"}, BUDGET, "accurate"))
    assert found.tables[-1][0][:2] == ["trial", "macro_f1"]
    assert "macro_f1 0.9475 what was maximised" in found.words() and "All trials: macro_f1 over" in found.words()


def test_the_table_holds_every_trial_best_first_with_its_figures_values_and_reason():
    head, *body = page().tables[-1]
    assert head[:5] == ["trial", "metric", "retention", "p95, ms", "MB"]
    assert set(head[5:-1]) == {"student.layers", "prune.sparsity", "distillation.learning_rate"}
    assert [row[0] for row in body] == ["d_winner", "c_good", "e_collapsed", "a_slow", "b_failed"]
    assert body[0][1:5] == ["0.9475", "99.74%", "1.50", "15.0"]
    assert body[-1][1:5] == ["-"] * 4
    assert body[-1][head.index("student.layers")] == "0, 2"
    assert body[1][head.index("prune.sparsity")] == ""
    assert body[3][-1] == "outside the budget: p95_ms 7.5 (limit max_p95_ms=2), megabytes 60 (limit max_megabytes=20)"


def test_where_nothing_fits_the_nearest_trial_is_named():
    words = page([TRIALS[0], TRIALS[4]]).words()
    assert "No trial is inside the budget (min_retention=0.99, max_p95_ms=2, max_megabytes=20)." in words
    assert "The nearest is trial e_collapsed, outside the budget: retention 0.2105" in words


def test_a_search_without_a_measured_trial_has_a_page_without_a_chart():
    found = page([TRIALS[1]])
    assert not found.all("svg")
    assert "1 trial: 0 inside the budget, 0 outside, 1 failed." in found.words()
    assert found.tables[-1][1][0] == "b_failed"


def test_trials_that_were_timed_again_are_counted():
    again = [timed_again(each, {"p95_ms": 1.25}) for each in TRIALS if not each.error]
    assert "4 timed again after the search, in turns; the choice is by that." in page(again).words()
    assert "timed again" not in page().words()


def test_trials_that_were_timed_on_a_busy_machine_are_counted():
    def beside(busy: float) -> str:
        other = trial("other", 0.94)
        return page([*TRIALS, Trial(other.id, other.values, {**other.metrics, "busy": busy})]).words()

    words = "1 timed on a busy machine: kept from the CPU for up to 12% of the time."
    assert words in beside(0.12) and "busy" not in beside(0.05)


def test_figures_that_are_no_numbers_are_dashes():
    odd = trial("odd", 0.945)
    odd = Trial(odd.id, odd.values, {**odd.metrics, "p95_ms": float("nan"), "retention": float("nan")})
    row = next(row for row in page([*TRIALS, odd]).tables[-1] if row[0] == "odd")
    assert row[1:5] == ["0.9450", "-", "-", "10.0"]


def test_an_empty_space_shows_no_values():
    only = Trial("only", {}, trial("", 0.95).metrics)
    assert "Nothing was searched" in page([only]).words()


def test_the_page_loads_nothing_and_runs_nothing():
    found = page(evaluation=EVALUATION)
    assert not {tag for tag, _ in found.tags} & {"script", "link", "img", "iframe", "object", "a", "base", "form"}
    assert not re.search(r"https?:|//[a-z]|url\(|@import|\bsrc=|\bhref=|\bon\w+=", found.html)
    policy = [each["content"] for each in found.all("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_what_others_wrote_is_text():
    found = page(name='<b>intent</b> & "co"')
    assert "<script>alert(1)</script>" in found.text and "<script" not in found.html
    assert '<b>intent</b> & "co"' in found.text and not found.all("b")


def test_the_page_can_be_read_without_seeing_it():
    found = page(evaluation=EVALUATION)
    assert found.all("html") == [{"lang": "en"}]
    contenders, trials = found.all("svg")
    assert contenders["role"] == "img" and "accuracy of 4 contenders" in (contenders["aria-label"] or "")
    assert trials["role"] == "img" and "metric over p95 latency" in (trials["aria-label"] or "")
    assert {attributes.get("scope") for attributes in found.all("th")} == {"row", "col"}
    ids = {attributes["id"] for _, attributes in found.tags if "id" in attributes}
    for _, attributes in found.tags:
        assert attributes.get("aria-labelledby", next(iter(ids))) in ids
        if "tabindex" in attributes:
            assert attributes["role"] == "region" and ("aria-label" in attributes or "aria-labelledby" in attributes)
    assert re.findall(r"<h([1-6])", found.html) == ["1", *"222222"]
    assert found.html.count("<title>") == 1 + len(TRIALS) - 1 + len(EVALUATION["answers"])


def test_where_the_search_is_recorded_is_named():
    words = page().words()
    assert f"MLflow run5c0de0e0aa5f modelmodels:/intent/7 bundle, SHA-256{'1' * 64}" in words
