from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from configs.schema.search import BudgetSpec
from jobs.measure.gate import TEST_TAG, Evidence, Objected, Release, evidence, figures, judge, not_compared, objections
from jobs.measure.gate import refused as refusal
from jobs.measure.gate import shown as shown_of

BUDGET = BudgetSpec(min_retention=0.9, max_p95_ms=5)
LABELS = ["cancel", "refund", "track"]
MEASURED = {"metric": 0.9, "retention": 1.0, "p95_ms": 2.0}


def said(retention: float | None = 0.95, spread: float = 0.02, **fields: Any) -> Evidence:
    """Evidence whose intervals reach `spread` to both sides."""
    given: dict[str, Any] = {"asked": "a" * 64, "rows": 1000, "metric": "accuracy", "value": 0.9, "bundle": "b" * 64}
    given |= {"p95_ms": 2.0, "megabytes": 3.0, "run": "run", "at": "2026-01-01T00:00:00+00:00"} | fields
    ends = {"value_low": given["value"] - spread, "value_high": given["value"] + spread}
    if retention is not None:
        ends |= {"retention_low": retention - spread, "retention_high": retention + spread}
    return Evidence(**{**ends, "retention": retention, **given})


def release(*found: Evidence, version: str = "2", **fields: Any) -> Release:
    given: dict[str, Any] = {"name": "intent", "labels": LABELS, "measured": MEASURED} | fields
    return Release(version=version, tested=found, **given)


def champion(*found: Evidence, **fields: Any) -> Release:
    return release(*found, version="1", **fields)


def against(one: Release, other: Release | None = None, budget: BudgetSpec = BUDGET) -> dict[str, str]:
    found = objections(one, other, budget)
    assert len({each.kind for each in found}) == len(found)
    return {each.kind: each.words for each in found}


@pytest.mark.parametrize(
    ("retention", "spread", "inside", "shown", "end"),
    [
        (0.95, 0.02, True, True, "retention 0.95 (0.93 to 0.97) (min_retention=0.9), p95_ms 2 (max_p95_ms=5)"),
        (0.91, 0.02, True, False, "; not shown to be inside, as the interval begins below the limit"),
        (0.81, 0.02, False, True, "retention 0.81 (0.79 to 0.83) misses min_retention=0.9 by 10.0%"),
        (0.89, 0.02, False, False, "; not shown to be outside, as the interval ends above the limit"),
    ],
)
def test_test_figures_are_inside_or_outside_and_the_interval_says_whether_that_is_shown(
    retention: float, spread: float, inside: bool, shown: bool, end: str
):
    found = judge(said(retention, spread), BUDGET)
    assert (found.inside, found.shown) == (inside, shown)
    assert found.words.startswith(f"{'inside' if inside else 'outside'} the budget on 1,000 test rows: retention ")
    assert found.words.endswith(end)


def test_every_limit_that_test_rows_miss_is_named_with_its_figure_and_no_other():
    found = judge(said(0.95, p95_ms=6.0), BUDGET)
    assert found == (False, True, "outside the budget on 1,000 test rows: p95_ms 6 misses max_p95_ms=5 by 20.0%")
    assert not judge(said(None), BUDGET).inside


def test_a_winner_that_validation_rows_like_and_test_rows_do_not_is_refused_with_the_figure_and_the_limit():
    """As it was deployed once: validation 100 % kept, test 84.3 %."""
    found = objections(release(said(0.843)), None, BUDGET)
    assert [each.kind for each in found] == ["outside"]
    words = refusal(found, [])
    assert words is not None and "retention 0.843 (0.823 to 0.863) misses min_retention=0.9 by 6.3%" in words
    assert words.endswith("; serving.accept='[outside]' deploys it all the same")
    assert refusal(found, ["outside"]) is None
    assert refusal(found, ["worse"]) is not None


def test_the_point_opens_the_gate_unless_the_interval_is_asked_for():
    doubtful = release(said(0.91))
    assert against(doubtful) == {}
    strict = BUDGET.model_copy(update={"gate": "interval"})
    assert "not shown to be inside" in against(doubtful, budget=strict)["outside"]
    assert against(release(said(0.95)), budget=strict) == {}


def test_without_test_rows_validation_figures_count_and_it_is_untested():
    assert list(against(release())) == ["untested"]
    found = against(release(measured={**MEASURED, "retention": 0.5}))
    assert list(found) == ["untested", "outside"]
    assert found["outside"].startswith("retention 0.5 (limit min_retention=0.9) on validation rows; nan means")
    assert list(against(release(measured={}))) == ["untested", "outside"]
    assert list(against(release(said(None)))) == ["untested"], "no share of a teacher, no budget"


def test_with_test_rows_validation_figures_do_not_count():
    assert against(release(said(), measured={})) == {}


def test_the_newest_evidence_with_a_teacher_is_held_against_the_budget():
    later: dict[str, Any] = {"asked": "c" * 64, "at": "2026-02-01T00:00:00+00:00"}
    assert list(against(release(said(0.95), said(0.5, **later)))) == ["outside"]
    assert against(release(said(0.95), said(None, **later))) == {}


def test_worse_than_the_champion_on_the_same_rows_is_refused_with_both_figures():
    found = against(release(said(value=0.635)), champion(said(value=0.714)))
    assert found == {
        "worse": "accuracy 0.635 (0.615 to 0.655) on 1,000 test rows, of which the champion models:/intent/1 has "
        "accuracy 0.714 (0.694 to 0.734)"
    }
    assert against(release(said(value=0.714)), champion(said(value=0.635))) == {}
    assert against(release(said(value=0.714)), champion(said(value=0.714))) == {}


def test_with_intervals_worse_is_what_lies_below_the_champions_interval():
    strict = BUDGET.model_copy(update={"gate": "interval"})
    one, other = release(said(value=0.70)), champion(said(value=0.72))
    assert list(against(one, other)) == ["worse"]
    assert against(one, other, strict) == {}
    assert list(against(release(said(value=0.6)), other, strict)) == ["worse"]


@pytest.mark.parametrize("theirs", [[], [said(value=0.99, asked="c" * 64)]])
def test_other_rows_are_not_compared_and_that_is_said(theirs: Sequence[Evidence]):
    one, other = release(said()), champion(*theirs)
    assert against(one, other) == {}
    reason = not_compared(one, other)
    assert reason is not None and reason.startswith("models:/intent/2 is not compared with models:/intent/1: ")
    assert "bundle=models:/intent/1 data.test=" in reason
    assert not_compared(one, champion(said())) is None


def test_the_same_rows_are_found_among_others():
    other = said(value=0.99, asked="c" * 64, at="2026-02-01T00:00:00+00:00")
    assert list(against(release(said(value=0.6), other), champion(said(value=0.7)))) == ["worse"]


def test_other_labels_are_refused_with_what_is_gone_and_new():
    text = "where is my card, I am Jane Roe " * 3
    found = against(release(said(), labels=["track", "refund", text]), champion(said()))
    assert found == {
        "labels": f"its 3 labels are not the 3 of models:/intent/1: 1 gone ('cancel'), 1 new ({len(text)} characters)"
    }
    many = [f"label {number}" for number in range(10)]
    found = against(release(said(), labels=[*LABELS, *many]), champion(said()))
    assert found["labels"].endswith("10 new ('label 0', 'label 1', 'label 2', ...)")
    assert against(release(said(), labels=LABELS[::-1]), champion(said())) == {}


def test_a_model_of_another_name_is_refused_with_both_names():
    found = against(release(said(), name="review"), champion(said()))
    assert found == {"name": "the model is review, and the service runs models:/intent/1"}


def test_a_champion_that_cannot_be_read_stops_nobody_and_is_said_to_be():
    assert against(release(said()), champion(labels=None)) == {}
    assert "its labels are not known" in (not_compared(release(said()), champion(labels=None)) or "")


def test_what_has_served_comes_back_whatever_the_budget_says():
    bad, good = said(0.1, value=0.1), champion(said(value=0.9))
    for again in (release(bad), release(measured={})):
        assert len(against(again, good)) >= 2 or not again.tested
        assert against(replace(again, served=True), good) == {}
    elsewhere = release(bad, name="review", labels=["stars"], served=True)
    assert list(against(elsewhere, good)) == ["labels", "name"]
    assert against(replace(elsewhere, served_here=True), good) == {}


def test_what_is_left_is_said_with_a_remedy_that_holds_what_was_accepted_before():
    found = [Objected("worse", "it is worse"), Objected("name", "it is another")]
    assert refusal(found, ["name"]) == "it is worse; serving.accept='[name, worse]' deploys it all the same"
    assert refusal(found, ["worse", "name"]) is None
    assert refusal([], []) is None


def test_evidence_goes_through_a_tag_and_is_of_one_bundle_and_one_metric(caplog: pytest.LogCaptureFixture):
    first, second = said(), said(asked="c" * 64, at="2025-01-01T00:00:00+00:00")
    other, by_class = said(asked="d" * 64, bundle="e" * 64), said(metric="macro_f1")
    tags = dict(each.tag() for each in (first, second, other, by_class)) | {"slimcart.bundle": "b" * 64}
    assert evidence(tags, "b" * 64, "accuracy") == [second, first], "the newest last"
    assert evidence(tags, "b" * 64, "macro_f1") == [by_class]
    assert all(len(value) < 5000 for value in tags.values()), "MLflow's limit"
    damaged = {f"{TEST_TAG}x": "{}", f"{TEST_TAG}y": json.dumps({"later": 1})}
    assert evidence(damaged, "b" * 64, "accuracy") == []
    assert caplog.text.count("no test evidence of this version of the program") == 2


def test_figures_of_a_release_name_those_of_test_rows_and_whether_they_are_inside():
    found = figures(release(said(0.5)), BUDGET)
    assert found == {**MEASURED, "test_accuracy": 0.9, "test_retention": 0.5, "inside": 0.0}
    assert figures(release(), BUDGET) == MEASURED


def test_time_by_token_is_held_against_its_limit_and_what_was_never_timed_is_outside():
    budget = BudgetSpec(min_retention=0.9, max_ms_per_token=2)
    assert judge(said(ms_per_token=1.5), budget).inside
    assert "ms_per_token 2.5 misses max_ms_per_token=2 by 25.0%" in judge(said(ms_per_token=2.5), budget).words
    assert "ms_per_token not measured misses max_ms_per_token=2" in judge(said(), budget).words


def test_what_is_held_back_and_what_goes_out_wrong_are_limits():
    budget = BudgetSpec(min_retention=0.9, max_held=0.05, max_slot_errors=0.01)
    assert judge(said(held=0.05, sent_slot_error_rate=0.0), budget).inside
    words = judge(said(held=0.1, sent_slot_error_rate=0.02), budget).words
    assert "held 0.1 misses max_held=0.05 by 100.0%" in words
    assert "sent_slot_error_rate 0.02 misses max_slot_errors=0.01" in words
    assert "held not measured misses max_held=0.05" in judge(said(), budget).words


def test_what_a_catalogue_shows_of_a_release_are_the_test_figures_that_the_budget_was_held_against():
    older, newer = said(0.9, value=0.8), said(0.95, value=0.85, at="2026-02-01T00:00:00+00:00")
    assert shown_of(release(older, newer)) == {"accuracy": 0.85, "retention": 0.95, "p95_ms": 2.0, "megabytes": 3.0}
    assert shown_of(release(said(None))) == shown_of(release()) == {}
