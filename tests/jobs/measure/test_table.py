from __future__ import annotations

import math

import pytest

from configs.schema.search import BudgetSpec
from configs.schema.tasks import ANSWER_SHAPE, BUDGET_SHAPE, TASKS
from jobs.measure.differences import Difference
from jobs.measure.measurement import key
from jobs.measure.table import (
    Gap,
    Machine,
    cascade,
    difference_words,
    differences_markdown,
    flat,
    latencies_markdown,
    markdown,
    ratios,
    resources_markdown,
    verdict,
)
from tuning.figures import Figures, at, figures
from tuning.figures import flat as flat_names

LARGE = (16, 32)
CLASSIFY = TASKS["classify"]


def answer(accuracy: float, p50: float, size: float | None = None, **more: float) -> Figures:
    metrics = {"accuracy": accuracy, "macro_f1": accuracy - 0.01} | ({} if size is None else {"bytes": size}) | more
    times = ((BUDGET_SHAPE, 1.0), (LARGE, 10.0))
    return figures(metrics, {at(shape): {"p50_ms": p50 * each, "p95_ms": p50 * each * 1.2} for shape, each in times})


ANSWERS = {
    "tfidf_svm": answer(0.8, 0.5),
    "teacher": answer(0.96, 20.0, 90e6),
    "winner": answer(0.95, 1.25, 15e6),
}


def cells(line: str) -> list[str]:
    return [each.strip() for each in line.strip("|").split("|")]


def test_latencies_are_named_by_batch_tokens_and_percentile():
    assert key((1, 32), "p50_ms") == "batch1_tokens32_p50_ms"


def test_ratios_are_the_share_kept_and_how_many_times_faster_and_smaller():
    assert ratios(ANSWERS, "winner", "teacher", [BUDGET_SHAPE, LARGE], CLASSIFY) == {
        "retention": pytest.approx(0.95 / 0.96),
        "speedup_batch1_tokens32": 16.0,
        "speedup_batch16_tokens32": 16.0,
        "times_smaller": 6.0,
    }


def test_a_model_compared_with_itself_is_one_of_each():
    assert set(ratios(ANSWERS, "teacher", "teacher", [BUDGET_SHAPE], CLASSIFY).values()) == {1.0}


def test_nothing_is_kept_of_a_metric_that_is_0():
    answers = {**ANSWERS, "teacher": answer(0.0, 20.0)}
    assert "retention" not in ratios(answers, "winner", "teacher", [BUDGET_SHAPE], CLASSIFY)


def test_without_sizes_nothing_is_said_about_them():
    assert "times_smaller" not in ratios(ANSWERS, "tfidf_svm", "teacher", [BUDGET_SHAPE], CLASSIFY)


def test_flat_metrics_are_numbers_by_contender_and_metric():
    found = flat(ANSWERS)
    assert found["winner_accuracy"] == 0.95
    assert found["teacher_batch16_tokens32_p50_ms"] == 200.0
    assert len(found) == sum(len(flat_names(each)) for each in ANSWERS.values())
    assert all(math.isfinite(value) for value in found.values())


def test_the_table_has_a_row_for_each_contender_compared_with_the_teacher():
    head, line, *body = markdown(ANSWERS, "teacher", [BUDGET_SHAPE, LARGE], CLASSIFY).splitlines()
    assert [cells(row)[0] for row in body] == list(ANSWERS)
    assert {len(cells(row)) for row in (head, line, *body)} == {10}
    assert set(cells(line)) == {"---"}
    assert dict(zip(cells(head), cells(body[2]), strict=False)) == {
        "model": "winner",
        "accuracy": "0.9500",
        "macro-F1": "0.9400",
        "kept": "99.0%",
        "p50 / p95 ms, batch 1, 32 tokens": "1.25 / 1.50",
        "faster": "16.0x",
        "p50 / p95 ms, batch 16, 32 tokens": "12.50 / 15.00",
        "MB": "15.0",
        "smaller": "6.0x",
    }
    assert cells(body[1])[3] == "100.0%"
    assert cells(body[0])[-2:] == ["", ""]


def test_without_a_teacher_nothing_is_compared():
    body = markdown(ANSWERS, None, [BUDGET_SHAPE], CLASSIFY).splitlines()[2:]
    assert not [row for row in body if "x |" in row or "%" in row]
    assert cells(body[2])[1] == "0.9500"


def test_decoders_are_compared_by_the_metrics_of_their_task_and_by_rows_as_they_come():
    answers = {
        "teacher": figures({"bleu": 40.0, "rouge_l": 60.0}),
        "winner": figures({"bleu": 39.0, "rouge_l": 59.0, "bytes": 1e6}),
    }
    head, _, _, winner = markdown(answers, "teacher", [], TASKS["generate"]).splitlines()
    assert cells(head) == ["model", "BLEU", "ROUGE-L", "kept", "MB", "smaller"]
    assert cells(winner) == ["winner", "39.0000", "59.0000", "97.5%", "1.0", ""]
    for name, ms in (("teacher", 80.0), ("winner", 8.0)):
        answers[name]["latency"]["mix"] = {"p50_ms": ms, "p95_ms": 2 * ms, "p99_ms": 3 * ms}
    head, _, _, winner = markdown(answers, "teacher", [], TASKS["generate"]).splitlines()
    assert cells(head)[4:6] == ["p50 / p95 ms, a row as it comes", "faster"]
    assert cells(winner)[4:6] == ["8.00 / 16.00", "10.0x"]
    _, _, row, _, note = latencies_markdown(answers, [], TASKS["generate"]).splitlines()
    assert cells(row) == ["a row as it comes", "80.00 / 160.00 / 240.00", "8.00 / 16.00 / 24.00"]
    assert note == "Of 20 to 100 calls, by what fits in 2 s; a p99 of few is their slowest."


def test_what_writes_is_timed_to_its_first_token_and_by_tokens_of_its_answers():
    first, whole = {"p50_ms": 2.0}, {"p50_ms": 64.0, "ms_per_token": 2.0, "tokens_per_second": 500.0}
    found = figures(latency={at((1, 32, 1)): first, at(ANSWER_SHAPE): whole})
    text = latencies_markdown({"winner": found}, [(1, 32, 1), ANSWER_SHAPE], TASKS["generate"])
    body = {cells(line)[0]: cells(line)[1] for line in text.splitlines()[2:-1] if line}
    assert body["batch 1, prompts of 32 tokens, first token"] == "2.00"
    assert body["ms for each token, batch 1, prompts of 32 tokens, answers of 32"] == "2.00"
    assert body["tokens a second, batch 1, prompts of 32 tokens, answers of 32"] == "500"


BASELINES = {
    "tfidf_svm": answer(0.912, 0.5, 1e6),  # 95 % of the teacher
    "static_logreg": answer(0.9312, 0.8, 30e6),  # 97 %
    "teacher": answer(0.96, 20.0, 90e6),
    "winner": answer(0.95, 1.25, 15e6),
}


def said(min_retention: float, max_p95_ms: float = 2.0, max_megabytes: float | None = None) -> tuple[str, bool]:
    budget = BudgetSpec(min_retention=min_retention, max_p95_ms=max_p95_ms, max_megabytes=max_megabytes)
    found = verdict(BASELINES, ["tfidf_svm", "static_logreg"], "winner", "teacher", budget, CLASSIFY)
    assert found is not None
    return found


def test_baselines_outside_the_budget_are_said_to_be_with_the_best_and_the_limit_that_it_breaks():
    expected = (
        "No baseline is inside the budget; the best, static_logreg, keeps 97.0% of the teacher's accuracy, and is"
    )
    assert said(0.99) == (f"{expected} outside with retention 0.97 (limit min_retention=0.99).", False)
    assert said(0.9, max_p95_ms=0.1) == (f"{expected} outside with p95_ms 0.96 (limit max_p95_ms=0.1).", False)
    assert said(0.9, max_megabytes=0.5) == (f"{expected} outside with megabytes 30 (limit max_megabytes=0.5).", False)


def test_a_faster_baseline_inside_the_budget_is_named_with_how_much_both_keep():
    words, beaten = said(0.97)
    assert beaten
    assert words == (
        "The baseline static_logreg is inside the budget and 1.6x faster than the winner: "
        "it keeps 97.0% of the teacher's accuracy, the winner 99.0%."
    )
    assert "tfidf_svm is inside the budget and 2.5x faster" in said(0.9, max_megabytes=20)[0]


def test_a_slower_baseline_inside_the_budget_does_not_beat_the_winner():
    answers = {**BASELINES, "winner": answer(0.95, 0.25)}
    budget = BudgetSpec(min_retention=0.9)
    words, beaten = verdict(answers, ["tfidf_svm"], "winner", "teacher", budget, CLASSIFY) or ("", True)
    assert not beaten
    assert "is inside the budget too, but no faster than the winner; it keeps 95.0%" in words


def test_a_faster_baseline_comes_before_a_better_one_that_is_slower():
    answers = {**BASELINES, "static_logreg": answer(0.95, 5.0, 1e6)}
    words, beaten = verdict(
        answers, ["tfidf_svm", "static_logreg"], "winner", "teacher", BudgetSpec(min_retention=0.9), CLASSIFY
    ) or ("", False)
    assert beaten and "The baseline tfidf_svm" in words


def test_without_baselines_or_a_teacher_that_is_ever_right_there_is_no_verdict():
    nothing = {**BASELINES, "teacher": answer(0.0, 20.0)}
    assert verdict(BASELINES, [], "winner", "teacher", BudgetSpec(), CLASSIFY) is None
    assert verdict(nothing, ["tfidf_svm"], "winner", "teacher", BudgetSpec(), CLASSIFY) is None


def test_a_figure_that_some_contenders_lack_is_left_empty():
    answers = {**ANSWERS, "winner": answer(0.95, 1.25, 15e6, agreement=0.975, ece=0.0312)}
    head, _, *body = markdown(answers, "teacher", [], CLASSIFY).splitlines()
    assert cells(head)[:5] == ["model", "accuracy", "macro-F1", "as the teacher", "ECE"]
    assert [cells(row)[3:5] for row in body] == [["", ""], ["", ""], ["0.9750", "0.0312"]]


def test_differences_are_a_table_of_shares_and_points():
    found = [Difference("class", "a|b\nc", 40, 0.95, 0.875), Difference("channel", "phone", 300, 0.9, 0.89)]
    head, line, *body = differences_markdown(found).splitlines()
    assert cells(head) == ["the winner is behind its teacher in", "rows", "teacher", "winner", "difference, points"]
    assert set(cells(line)) == {"---"}
    assert body == [
        "| class: a\\|b c | 40 | 95.0% | 87.5% | -7.5 |",
        "| channel: phone | 300 | 90.0% | 89.0% | -1.0 |",
    ]


def test_where_the_winner_is_never_behind_a_sentence_says_so():
    assert differences_markdown([]) == "In no class or slice of at least 10 rows is the winner behind its teacher.\n"


def test_a_cascade_says_what_its_first_model_answers_and_what_a_row_takes():
    ours, theirs = answer(0.95, 1.0, first_share=0.725), answer(0.96, 20.0)
    ours["latency"]["mix"] = {"mean_ms": 0.8, "p50_ms": 0.4, "p95_ms": 2.0}
    theirs["latency"]["mix"] = {"mean_ms": 16.0, "p50_ms": 16.0, "p95_ms": 20.0}
    assert cascade(ours, theirs) == (
        "The winner is a cascade: its first model answers 72.5% of the test rows. A row as it comes, batch 1, takes "
        "mean / p50 / p95 0.80 / 0.40 / 2.00 ms, 20.0x / 40.0x / 10.0x faster than the teacher's "
        "16.00 / 16.00 / 20.00 ms."
    )
    assert (cascade(ours, None) or "").endswith("takes mean / p50 / p95 0.80 / 0.40 / 2.00 ms.")
    alone = cascade({**ours, "metrics": {"first_share": 1.0}}, None) or ""
    assert alone.startswith(
        "The winner is the first model of a cascade: it answers all test rows, and the second none."
    )
    assert cascade(theirs, theirs) is None
    found = ratios({"winner": ours, "teacher": theirs}, "winner", "teacher", [BUDGET_SHAPE], CLASSIFY)
    assert (found["speedup_mix"], found["speedup_mix_mean"], found["speedup_batch1_tokens32"]) == (40.0, 20.0, 20.0)


def test_an_interval_stands_beside_its_metric():
    answers = {**ANSWERS, "winner": answer(0.95, 1.25, 15e6, accuracy_low=0.94, accuracy_high=0.96)}
    body = markdown(answers, "teacher", [], CLASSIFY).splitlines()[2:]
    assert [cells(row)[1] for row in body] == ["0.8000", "0.9600", "0.9500 (0.9400 to 0.9600)"]


def test_a_contender_that_was_not_timed_at_a_shape_has_an_empty_cell():
    step = answer(0.95, 1.25, 15e6)
    del step["latency"][at(LARGE)]
    *_, last = markdown({**ANSWERS, "step_prune": step}, "teacher", [BUDGET_SHAPE, LARGE], CLASSIFY).splitlines()
    assert cells(last)[4:8] == ["1.25 / 1.50", "16.0x", "", ""]


def test_latencies_are_a_row_for_each_shape_and_one_for_the_rows_of_the_file():
    shape, mix = ({f"p{each}_ms": each / less for each in (50, 95, 99)} for less in (10, 100))
    winner = figures(latency={at(BUDGET_SHAPE): shape, "mix": mix | {"mean_ms": 0.55}})
    head, _, *body = latencies_markdown(
        {"tfidf_svm": figures(), "winner": winner}, [BUDGET_SHAPE], CLASSIFY
    ).splitlines()
    assert cells(head) == ["p50 / p95 / p99 ms", "tfidf_svm", "winner"]
    assert cells(body[0]) == ["batch 1, 32 tokens", "", "5.00 / 9.50 / 9.90"]
    assert cells(body[1]) == ["a row as it comes", "", "0.50 / 0.95 / 0.99"]
    assert cells(body[2]) == ["mean, a row as it comes", "", "0.55"]


def test_beside_a_p95_of_the_quietest_block_stands_that_of_the_others():
    winner = figures(latency={at(BUDGET_SHAPE): {"p95_ms_others_low": 1.0, "p95_ms_others_high": 7.25}})
    table = latencies_markdown({"tfidf_svm": figures(), "winner": winner}, [BUDGET_SHAPE, LARGE], CLASSIFY).splitlines()
    assert [cells(line) for line in table if "blocks" in line] == [
        ["p95 of the other blocks, batch 1, 32 tokens", "", "1.00 to 7.25"]
    ]


def test_no_figure_of_energy_or_of_a_peak_stands_without_how_it_was_taken():
    metrics = {"rows_per_second": 1234.5, "load_s": 0.25, "peak_mb": 99.4, "joules_per_1000": 4.44}
    metrics |= {"batch_changed": 0.0}
    winner_figures = figures(metrics, shares={at(BUDGET_SHAPE): {"fp32": 0.5, "int8": 0.125}})
    machine = Machine({"fp32": 90.4, "int8": 361.6}, "an estimate")
    text = resources_markdown({"winner": winner_figures, "tfidf_svm": figures()}, [BUDGET_SHAPE], machine, CLASSIFY)
    head, _, winner, baseline, *notes = text.splitlines()
    assert dict(zip(cells(head), cells(winner), strict=True)) == {
        "model": "winner",
        "rows a second, whole file": "1,234",
        "seconds to load": "0.25",
        "peak memory, MB": "99",
        "answers that change with the batch": "0.00%",
        "J per 1,000 requests": "4.4",
        "of the fp32 peak, batch 1, 32 tokens": "50.0%",
        "of the int8 peak, batch 1, 32 tokens": "12.5%",
    }
    assert cells(baseline)[1:] == [""] * 7
    said = " ".join(notes)
    assert "one request each: an estimate." in said and "fp32 90, int8 362" in said
    assert "2 x the multiply-adds of the model's matrix products / p50 / peak" in said
    unknown = resources_markdown({"winner": figures()}, [], Machine({}, "it"), TASKS["generate"])
    assert "peak" not in " ".join(unknown.splitlines()[3:]).lower()


def test_the_difference_is_a_sentence_with_its_interval():
    assert difference_words(Gap(-0.034, -0.046, -0.022), "accuracy") == (
        "The winner's accuracy less the teacher's is -0.0340 (95 % interval over the same rows: -0.0460 to -0.0220).\n"
    )


def test_how_often_something_was_called_is_no_metric_of_a_run():
    winner = figures({"accuracy": 0.9}, {at(BUDGET_SHAPE): {"calls": 300}})
    assert flat({"winner": winner}) == {"winner_accuracy": 0.9}
    assert winner["latency"] == {at(BUDGET_SHAPE): {"calls": 300}}
