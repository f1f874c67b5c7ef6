from __future__ import annotations

import copy
import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from configs.schema.recipe import Recipe
from configs.schema.tasks import ANSWER_SHAPE, BUDGET_SHAPE, TASKS
from jobs.data.source import Row
from jobs.measure.answers import Answer
from jobs.measure.bootstrap import resampled
from jobs.measure.comparison import UnseenRows, compare, shown_shapes
from jobs.measure.measurement import Measured
from jobs.measure.table import Machine
from jobs.tasks.classify import metrics
from tuning.figures import Figures, add, at, figures, flat

LABELS = ["refund"] * 20 + ["track"] * 20
AT = at(BUDGET_SHAPE)
TEST = UnseenRows("0" * 64, "1" * 64, LABELS, {"channel": ["phone", "mail"] * 20})


def measured(p50: float, wrong: list[int], score: float | None = 0.9, size: float = 1e6) -> Measured:
    """A contender that is right but for the rows `wrong`."""
    answers = [Answer("track" if row in wrong else label, score) for row, label in enumerate(LABELS)]
    metrics = {"accuracy": 1 - len(wrong) / 40, "macro_f1": 0.9, "bytes": size}
    return Measured(figures(metrics, {AT: {"p50_ms": p50, "p95_ms": p50}}), answers)


def more(one: Measured, found: Figures) -> Measured:
    """The same with further figures."""
    whole = copy.deepcopy(one.figures)
    add(found, to=whole)
    return one._replace(figures=whole)


def accuracy(one: Measured) -> float:
    return one.figures["metrics"]["accuracy"]


FIVE = {
    "tfidf_svm": measured(0.5, list(range(12)), None),
    "static_logreg": measured(0.6, list(range(10))),
    "teacher": measured(20.0, [0, 1], size=90e6),
    "student": measured(5.0, [0, 1, 2]),
    "winner": measured(1.0, [0, 2, 4, 6]),
}


def drawn(wrong: list[int]) -> Measured:
    right = [(row not in wrong, 1) for row in range(40)]
    return measured(1.0, wrong)._replace(resampled=resampled(np.array(right), metrics.accuracy))


def compared(contenders: dict[str, Measured], **budget: Any) -> tuple[dict[str, Any], dict[str, str]]:
    recipe = Recipe.model_validate({"name": "x", "budget": budget})
    return compare(recipe, TEST, contenders, [BUDGET_SHAPE])


def test_metrics_hold_agreement_and_calibration_of_whoever_gives_probabilities():
    metrics = compared(FIVE)[0]["metrics"]
    assert metrics["winner_agreement"] == 36 / 40  # rows 1, 2, 4 and 6
    assert metrics["student_agreement"] == 39 / 40
    assert metrics["winner_ece"] == pytest.approx(0.0)
    assert metrics["teacher_ece"] == pytest.approx(0.05)
    assert metrics["retention"] == pytest.approx(0.9 / 0.95)
    assert "teacher_agreement" not in metrics and "tfidf_svm_ece" not in metrics
    assert all(isinstance(value, int | float) for value in metrics.values())


def test_classes_and_slices_are_compared_in_files_and_the_worst_in_the_manifest():
    fields, files = compared(FIVE)
    assert set(files) == {"classes.csv", "slices.csv", "table.md", "metrics.json"}
    classes, slices = (list(csv.DictReader(io.StringIO(files[name]))) for name in ("classes.csv", "slices.csv"))
    assert [(each["value"], each["rows"], float(each["difference"])) for each in classes] == [
        ("refund", "20", pytest.approx(-0.1)),
        ("track", "20", 0.0),
    ]
    assert [(each["slice"], each["value"], float(each["winner"])) for each in slices] == [
        ("channel", "phone", 0.8),
        ("channel", "mail", 1.0),
    ]
    assert [(each["slice"], each["value"]) for each in fields["behind"]] == [("class", "refund"), ("channel", "phone")]
    assert "| channel: phone | 20 | 95.0% | 80.0% | -15.0 |" in fields["table"]
    assert json.loads(files["metrics.json"]) == {name: flat(each) for name, each in fields["answers"].items()}
    assert json.loads(files["metrics.json"])["winner"]["batch1_tokens32_p50_ms"] == 1.0
    assert json.loads(json.dumps(fields))["answers"]["winner"]["latency"]["batch1_tokens32"]["p50_ms"] == 1.0


def test_the_units_that_are_counted_are_said_below_the_table_where_they_are_not_words_alone():
    recipe, machine = Recipe.model_validate({"name": "x"}), Machine({}, "not measured")
    fields, files = compare(recipe, TEST._replace(counted="characters (Han)"), FIVE, [BUDGET_SHAPE], machine)
    said = "Units of the texts that metrics and baselines count: characters (Han)."
    assert fields["notes"][0] == said and said in files["table.md"] and said in fields["table"]
    plain, _ = compare(recipe, TEST, FIVE, [BUDGET_SHAPE], machine)
    assert plain["notes"][0] == "Units of the texts that metrics and baselines count: words."
    assert "Units" not in plain["table"]


def test_a_baseline_that_would_do_is_a_warning(caplog: pytest.LogCaptureFixture):
    fields, files = compared(FIVE, min_retention=0.78)
    assert "The baseline static_logreg is inside the budget and 1.7x faster than the winner" in fields["verdict"]
    assert fields["verdict"] in files["table.md"]
    assert [each.getMessage() for each in caplog.records if each.levelname == "WARNING"] == [fields["verdict"]]


def test_a_baseline_that_would_not_do_is_no_warning(caplog: pytest.LogCaptureFixture):
    assert compared(FIVE, min_retention=0.9)[0]["verdict"].startswith("No baseline is inside the budget")
    assert not [each for each in caplog.records if each.levelname == "WARNING"]


def test_without_a_teacher_the_winner_stands_alone():
    fields, files = compared({"winner": FIVE["winner"]})
    assert (fields["verdict"], fields["behind"]) == (None, [])
    assert "retention" not in fields["metrics"] and "winner_agreement" not in fields["metrics"]
    assert files["classes.csv"].splitlines()[1] == "class,refund,20,,0.800000,"


def test_of_a_cascade_the_table_says_what_the_first_model_answers():
    mix = {"mix": {"mean_ms": 1.0, "p50_ms": 0.5, "p95_ms": 2.0}}
    slow = {"mix": {"mean_ms": 10.0, "p50_ms": 10.0, "p95_ms": 20.0}}
    winner = more(FIVE["winner"], figures({"first_share": 0.725}, mix))
    teacher = more(FIVE["teacher"], figures(latency=slow))
    fields, files = compared({"teacher": teacher, "winner": winner})
    assert "its first model answers 72.5% of the test rows" in files["table.md"]
    assert fields["metrics"]["winner_first_share"] == 0.725
    assert (fields["metrics"]["speedup_mix"], fields["metrics"]["speedup_mix_mean"]) == (20.0, 10.0)


def test_no_file_holds_what_was_said_of_a_row():
    """A label that is not of the test rows, as a wrong answer may be, stands nowhere."""
    odd = Measured(FIVE["winner"].figures, [Answer("secret", 0.5)] * 40)
    fields, files = compared({**FIVE, "winner": odd})
    assert "secret" not in json.dumps(fields) + "".join(files.values())


WRITTEN = ["the parcel is late", "the money is back", "a shoe that fits well"]


def wrote(bleu: float, ms: float, *texts: str) -> Measured:
    """A decoder that wrote these texts."""
    latency = {"mix": {f"p{each}_ms": ms for each in (50, 95, 99)}}
    latency[at(ANSWER_SHAPE)] = {"p50_ms": ms, "p95_ms": ms, "ms_per_token": ms / 32}
    return Measured(figures({"bleu": bleu, "bytes": 1e5 * ms, "rows_per_second": 1e3 / ms}, latency), answers_of(texts))


def answers_of(texts: Sequence[str]) -> list[Answer]:
    return [Answer(text) for text in texts]


def decoders(**sections: Any) -> tuple[dict[str, Any], dict[str, str]]:
    recipe = Recipe.model_validate({"name": "x", "task": "generate", **sections})
    rows = [Row(f"prompt {number}", None, text) for number, text in enumerate(WRITTEN)]
    contenders = {
        "nearest_row": wrote(5.0, 0.4, *WRITTEN[::-1]),
        "teacher": wrote(40.0, 80.0, *WRITTEN),
        "winner": wrote(39.0, 8.0, WRITTEN[0], "no idea at all", "a shoe that fits"),
    }
    test = UnseenRows("0" * 64, "1" * 64, WRITTEN, {}, rows=rows)
    return compare(recipe, test, contenders, [ANSWER_SHAPE], Machine({}, "an estimate of nothing"))


def test_decoders_are_compared_by_their_metrics_and_by_answers_of_a_stated_length():
    fields, files = decoders(budget={"min_retention": 0.9, "max_ms_per_token": 0.2})
    assert set(files) == {"table.md", "metrics.json", "comparison.svg"}
    metrics = fields["metrics"]
    assert (metrics["winner_bleu"], metrics["retention"], metrics["inside"]) == (39.0, 0.975, 0.0)
    assert metrics["speedup_mix"] == metrics["speedup_batch1_tokens32_answer32"] == 10
    assert "ms_per_token 0.25 misses max_ms_per_token=0.2 by 25.0%" in fields["first"][0]
    assert fields["tested"]["ms_per_token"] == 0.25 and fields["budgeted"]["winner"]["ms_per_token"] == 0.25
    assert {each["held"] for each in fields["budgeted"].values()} == {0.0}  # what is not checked holds nothing back
    assert (
        "No baseline is inside the budget; the best, nearest_row, keeps 12.5% of the teacher's bleu"
        in fields["verdict"]
    )
    assert "| a row as it comes |" in files["table.md"] and "| rows a second, whole file |" in files["table.md"]
    assert "p50, ms: batch 1, prompts of 32 tokens, answers of 32" in files["comparison.svg"]


def test_rows_stand_side_by_side_the_winners_worst_first_and_no_more_than_are_wanted():
    fields, _ = decoders(evaluation={"examples": 2})
    assert [each["prompt"] for each in fields["examples"]] == ["prompt 1", "prompt 2"]
    first = fields["examples"][0]
    assert (first["reference"], first["teacher"], first["winner"]) == (WRITTEN[1], WRITTEN[1], "no idea at all")
    assert first["score"] < fields["examples"][1]["score"] < 100
    assert decoders(evaluation={"examples": 0})[0]["examples"] == []


def test_the_winner_less_its_teacher_has_an_interval_of_the_same_rows():
    """Both are wrong on rows 0 and 1, the winner on 2 more of 40: behind in almost every sample, ahead in none."""

    fields, _ = compared({"teacher": drawn([0, 1]), "winner": drawn([0, 1, 2, 3])})
    metrics = fields["metrics"]
    assert metrics["retention"] == pytest.approx(36 / 38)
    assert 0.8 < metrics["retention_low"] < 36 / 38 < metrics["retention_high"] <= 1
    assert metrics["difference"] == pytest.approx(-0.05)
    assert -0.15 < metrics["difference_low"] < -0.05 < metrics["difference_high"] <= 0
    assert "The winner's accuracy less the teacher's is -0.0500 (95 % interval over the same rows: " in fields["table"]


def test_the_final_evaluation_goes_by_the_budgets_metric():
    """By accuracy the winner keeps 94.7 %, by macro-F1 all."""
    fields, _ = compared(FIVE, metric="macro_f1", min_retention=0.99)
    assert fields["metric"] == "macro_f1" and fields["metrics"]["retention"] == 1
    assert fields["verdict"].startswith("The baseline tfidf_svm is inside the budget and 2.0x faster than the winner")
    assert "it keeps 100.0% of the teacher's macro_f1" in fields["verdict"]
    assert "\n| model | macro-F1 | accuracy | as the teacher |" in fields["table"]


def test_a_baseline_that_is_better_than_the_teacher_or_the_winner_is_the_first_sentence(
    caplog: pytest.LogCaptureFixture,
):
    contenders = {"tfidf_svm": drawn([0]), "teacher": drawn(list(range(10))), "winner": drawn(list(range(12)))}
    fields, files = compared(contenders, min_retention=0.1)
    first = (
        "The baseline tfidf_svm is better than the teacher and the winner: its accuracy is 0.9750, "
        "+0.2250 on the teacher's 0.7500 (95 % interval over the same rows: "
    )
    for text in (fields["verdict"], fields["table"], files["table.md"]):
        assert text.startswith(first)
    assert "is inside the budget" in fields["verdict"]
    assert caplog.records[0].levelname == "WARNING" and caplog.records[0].getMessage().startswith(first)
    alone = compared({"tfidf_svm": drawn([0]), "winner": drawn(list(range(12)))})[0]["verdict"]
    assert alone.startswith("The baseline tfidf_svm is better than the winner: its accuracy")


def test_a_baseline_that_is_better_by_chance_is_not_said_to_be():
    contenders = {"tfidf_svm": drawn([0, 1]), "teacher": drawn([2, 3, 4]), "winner": drawn([2, 3, 4])}
    assert "is better than" not in compared(contenders)[0]["verdict"]


def test_winner_and_baselines_are_judged_by_figures_of_the_same_turns():
    fields, _ = compared(FIVE)
    assert fields["budgeted"].keys() == FIVE.keys()
    for name, held in fields["budgeted"].items():
        assert held["p95_ms"] == FIVE[name].figures["latency"][AT]["p95_ms"]
        assert held["retention"] == accuracy(FIVE[name]) / accuracy(FIVE["teacher"])
    assert fields["budgeted"]["teacher"]["megabytes"] == 90


def test_the_files_hold_more_than_the_table_that_is_printed():
    recipe = Recipe.model_validate({"name": "x"})
    machine = Machine({"fp32": 90.0, "int8": 360.0}, "an estimate of nothing")
    fields, files = compare(recipe, TEST, FIVE, [BUDGET_SHAPE], machine)
    assert files["table.md"].startswith(fields["table"]) and "peak memory" in files["table.md"]
    assert "peak memory" not in fields["table"]
    assert files["comparison.svg"].startswith("<svg xmlns=") and files["comparison.svg"].count("<circle") == len(FIVE)
    assert fields["metrics"]["int8_peak"] == 360.0
    assert "Energy of rows of the file, one request each: an estimate of nothing." in fields["notes"]


def test_a_busy_machine_is_said_under_the_table_and_in_the_notes():
    def kept(share: float) -> dict[str, Any]:
        five = FIVE | {"winner": more(FIVE["winner"], figures(latency={AT: {"busy": share}}))}
        machine = Machine({"fp32": 90.0, "int8": 360.0}, "an estimate")
        return compare(Recipe.model_validate({"name": "x"}), TEST, five, [BUDGET_SHAPE], machine)[0]

    busy, quiet = kept(0.34), kept(0.01)
    words = "The machine was busy: winner was kept from the CPU for 34% of the time"
    assert words in busy["table"] and words in " ".join(busy["notes"])
    assert "busy" not in quiet["table"] + " ".join(quiet["notes"])
    assert "quietest of 5 blocks" in " ".join(quiet["notes"])


def test_the_table_shows_the_shape_of_the_budget_and_the_largest_batch_of_its_length():
    classify, generate = TASKS["classify"], TASKS["generate"]
    assert shown_shapes([(1, 16), (32, 64), (1, 32), (8, 32), (32, 32)], classify) == [(1, 32), (32, 32)]
    assert shown_shapes([(1, 16), (1, 32)], classify) == [(1, 32)]
    assert shown_shapes([], classify) == []
    assert shown_shapes([(1, 32, 1), ANSWER_SHAPE, (8, 32, 32)], generate) == [ANSWER_SHAPE, (8, 32, 32)]


def test_what_test_rows_say_of_the_budget_comes_first(caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    fields, files = compared(FIVE, min_retention=0.99, max_p95_ms=0.5)
    words = "outside the budget on 40 test rows: retention 0.9474 misses min_retention=0.99 by 4.3%, p95_ms 1 misses"
    assert fields["judged"]["words"].startswith(words)
    for text in (fields["table"], files["table.md"]):
        assert text.startswith(f"The winner is {words}")
    assert fields["metrics"]["inside"] == 0
    assert [each.levelname for each in caplog.records if "outside the budget on" in each.getMessage()] == ["WARNING"]
    fields, _ = compared(FIVE, min_retention=0.9)
    assert fields["metrics"]["inside"] == 1 and fields["table"].startswith("The winner is inside the budget on 40 ")


def test_the_evidence_of_a_winner_is_its_figures_on_the_rows():
    found = compared(FIVE)[0]["tested"]
    wanted = {"asked": TEST.asked, "rows": 40, "metric": "accuracy", "value": 0.9, "p95_ms": 1.0, "megabytes": 1.0}
    assert found.items() >= wanted.items()
    assert found["retention"] == pytest.approx(0.9 / 0.95)
    assert compared({"winner": FIVE["winner"]})[0]["tested"]["retention"] is None
    wrong = more(FIVE["teacher"], figures({"accuracy": 0.0}))
    assert compared({**FIVE, "teacher": wrong})[0]["tested"]["retention"] is None
