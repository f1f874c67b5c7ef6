from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from html.parser import HTMLParser
from typing import Any

import pytest

from configs.schema.search import BudgetSpec, Objective, Weights
from tuning import report
from tuning.chart import BOTTOM, DASH, LEFT, RIGHT, TOP, Axis, draw
from tuning.figures import Figures, figures
from tuning.pareto import Trial, choose, timed_again

BUDGET = BudgetSpec(min_retention=0.99, max_p95_ms=2.0, max_megabytes=20.0)
TEACHER = 0.95
VOID = {"meta"}


def trial(name: str, metric: float, p95: float = 1.0, megabytes: float = 10.0, **values: object) -> Trial:
    metrics = {"metric": metric, "retention": metric / TEACHER, "p95_ms": p95, "megabytes": megabytes}
    return Trial(name, {"student.layers": 2, **values}, metrics)


TRIALS = [
    trial("a_slow", 0.949, p95=7.5, megabytes=60.0),
    Trial("b_failed", {"student.layers": [0, 2]}, {}, "JobError: <script>alert(1)</script>"),
    trial("c_good", 0.944),
    trial("d_winner", 0.9475, p95=1.5, megabytes=15.0, **{"prune.sparsity": 0.3, "distillation.learning_rate": 8.2e-5}),
    trial("e_collapsed", 0.2),
]


def manifest(trials: list[Trial], budget: BudgetSpec, objective: Objective = "accurate") -> dict[str, Any]:
    """As <output>/search holds it, after its way through a file."""
    choice = choose(trials, budget, objective)
    found = {
        "key": "0" * 64,
        "run_id": "5c0de0e0aa5f",
        "model_uri": "models:/intent/7",
        "bundle": "1" * 64,
        "teacher_metric": TEACHER,
        "winner": asdict(choice.winner) if choice.winner else None,
        "trials": [asdict(each) | {"reason": choice.reasons[each.id]} for each in trials],
    }
    return json.loads(json.dumps(found))


def page(
    trials: list[Trial] = TRIALS,
    budget: BudgetSpec = BUDGET,
    evaluation: Mapping[str, Any] | None = None,
    name: str = "intent",
    objective: Objective = "accurate",
    rows: Mapping[str, Any] | None = None,
    served: Mapping[str, float] | None = None,
) -> Page:
    return Page(report.render(name, manifest(trials, budget, objective), budget, objective, evaluation, rows, served))


def test_what_a_client_sees_stands_beside_what_the_model_takes():
    seen = {"served_p50_ms": 2.04, "served_p95_ms": 3.1}
    said = "A client of the service gets an answer in 2.04 ms (p50) and 3.10 ms (p95), "
    assert said in page(served=seen).words()
    alone = EVALUATION | {"metrics": {"winner_batch1_tokens32_p50_ms": 1.25}}
    assert "when it was deployed; the model alone takes 1.25 ms (p50)." in page(served=seen, evaluation=alone).words()
    assert "A client" not in page().words()


class Page(HTMLParser):
    """Tables as rows of texts, the tags with their attributes, and the text; every tag must be closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.tags, self.text = html, [], ""
        self.tables: list[list[list[str]]] = []
        self._open: list[str] = []
        self.feed(html)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if {"td", "th"} & set(self._open):
            self.tables[-1][-1][-1] += data.replace("\u200b", "")

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for each, attributes in self.tags if each == tag]

    def classes(self, tag: str) -> list[str | None]:
        return [attributes.get("class") for attributes in self.all(tag)]

    def words(self) -> str:
        return " ".join(self.text.split())


def test_the_page_names_the_winner_why_it_won_and_its_values():
    words = page().words()
    assert "which chose the winner. 5 trials: 2 inside the budget, 2 outside, 1 failed." in words
    assert "Winner: trial d_winner Won: most accurate of 2 inside the budget by metric: metric 0.9475" in words
    assert page().tables[0] == [
        ["student.layers", "2"],
        ["prune.sparsity", "0.3"],
        ["distillation.learning_rate", "8.2e-05"],
    ]


def test_what_test_rows_say_of_the_budget_is_said_first():
    first = ["The winner is outside the budget on 1,000 test rows: retention 0.8433 misses it.", VERDICT]
    words = page(evaluation={**EVALUATION, "first": first}).words()
    assert words.index("outside the budget on 1,000") < words.index(VERDICT) < words.index("5 trials:")
    assert "No unseen row" not in words


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


def test_the_chart_draws_every_measured_trial_with_the_winner_marked_and_both_limits():
    found = page()
    assert sorted(filter(None, found.classes("circle"))) == ["inside", "outside", "outside", "ring", "winner"]
    assert found.classes("line").count("limits") == 2
    assert "at least 0.9405" in found.text and "at most 2 ms" in found.text
    assert "trial d_winner: metric 0.9475, retention 99.74%, p95, ms 1.50, MB 15.0" in found.text
    assert page(budget=BudgetSpec(min_retention=0.9)).classes("line").count("limits") == 1


def test_a_circles_area_is_its_megabytes():
    picture = drawn(TRIALS)
    radius = {point["words"].split(":")[0]: point["radius"] for point in picture["points"]}
    assert (radius["trial a_slow"] / radius["trial d_winner"]) ** 2 == pytest.approx(4, rel=0.05)


def drawn(trials: list[Trial], budget: BudgetSpec = BUDGET) -> dict[str, Any]:
    found = manifest(trials, budget)
    picture = draw(found["trials"], (found["winner"] or {}).get("id"), budget, TEACHER, "most accurate")
    assert picture is not None
    return picture


@pytest.mark.parametrize(
    "trials",
    [
        TRIALS,
        TRIALS[2:3],
        [trial("fast", 0.95, p95=0.01), trial("slow", 0.95, p95=500.0, megabytes=0.0)],
        [trial("none", 0.0, p95=1.0)],
        [trial("perfect", 1.0, p95=2.0), trial("same", 1.0, p95=2.0)],
    ],
    ids=["usual", "one", "far apart", "zero", "equal"],
)
@pytest.mark.parametrize("budget", [BUDGET, BudgetSpec(min_retention=0)], ids=["tight", "loose"])
def test_everything_is_drawn_inside_the_picture(trials: list[Trial], budget: BudgetSpec):
    picture = drawn(trials, budget)
    for point in picture["points"]:
        assert LEFT <= point["x"] <= RIGHT and TOP <= point["y"] <= BOTTOM
    assert TOP <= picture["limit_y"] <= BOTTOM
    assert picture["limit_x"] is None or LEFT <= picture["limit_x"] <= RIGHT
    for places, low, high in ((picture["x_ticks"], LEFT, RIGHT), (picture["y_ticks"], TOP, BOTTOM)):
        assert 2 <= len(places) <= 16
        assert all(low <= place <= high for place, _ in places)


def test_a_trial_below_the_edge_is_drawn_on_it_and_counted():
    picture = drawn(TRIALS)
    (collapsed,) = [point for point in picture["points"] if "e_collapsed" in point["words"]]
    assert collapsed["y"] == pytest.approx(BOTTOM - collapsed["radius"])
    assert "Trials below the lower edge are drawn on it: 1." in picture["caption"]
    assert "Trials without figures, not drawn: 1." in picture["caption"]


def test_axes_have_round_ticks():
    assert Axis(0.0, 9.1, LEFT, RIGHT).ticks() == [0, 2, 4, 6, 8]
    assert Axis(0.911, 0.958, LEFT, RIGHT).ticks() == [0.92, 0.93, 0.94, 0.95]
    assert Axis(0.3, 80.0, LEFT, RIGHT, log=True).ticks() == [0.5, 1, 2, 5, 10, 20, 50]


def test_a_log_axis_puts_equal_ratios_at_equal_distances():
    axis = Axis(1.0, 100.0, 0.0, 200.0, log=True)
    assert [axis.at(value) for value in (1, 10, 100)] == [0, 100, 200]


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


SHAPES = [[1, 32], [16, 32]]


def answer(accuracy: float, p50: float, size: float | None = None, **more: float) -> Figures:
    metrics = {"accuracy": accuracy, "macro_f1": accuracy - 0.01, "rows": 3080, "load_s": 0.5, "peak_mb": 300.0}
    latency = {
        name: {f"p{each}_ms": p50 * factor * times for each, times in ((50, 1), (95, 1.2), (99, 2))}
        for name, factor in (("batch1_tokens32", 1), ("batch16_tokens32", 8))
    }
    return figures(metrics | ({} if size is None else {"bytes": size}) | more, latency)


VERDICT = "No baseline is inside the budget; the best, tfidf_svm, keeps 90.5% of the teacher's accuracy."
OF_WINNER = {"agreement": 0.9712, "ece": 0.0523, "accuracy_low": 0.935, "accuracy_high": 0.953, "joules_per_1000": 12.5}
EVALUATION = {
    "answers": {
        "tfidf_svm": answer(0.86, 0.5, agreement=0.87),
        "teacher": answer(0.95, 20.0, 90e6, ece=0.0412),
        "student": answer(0.946, 8.0, 99e6),
        "winner": {**answer(0.944, 1.25, 15e6, **OF_WINNER), "shares": {"batch1_tokens32": {"int8": 0.318}}},
    },
    "task": "classify",
    "shapes": SHAPES,
    "notes": ["Energy: an estimate of <what>."],
    "budgeted": {"winner": {"metric": 0.944, "retention": 0.9321, "p95_ms": 1.77, "megabytes": 15.0}},
    "first": [VERDICT],
    "behind": [
        {"slice": "class", "value": "card_<b>arrival</b>", "rows": 40, "teacher": 0.95, "winner": 0.875},
        {"slice": "channel", "value": "phone", "rows": 900, "teacher": 0.9, "winner": 0.89},
    ],
}


def test_the_final_evaluation_compares_everyone_with_the_teacher_winner_first():
    _, found, _, _ = page(evaluation=EVALUATION).tables
    assert found[0] == ["figure", "winner", "teacher", "student", "tfidf svm"]
    rows = {row[0]: row[1:] for row in found[1:]}
    assert rows["accuracy"] == ["0.944099.4% kept", "0.9500", "0.946099.6% kept", "0.860090.5% kept"]
    assert rows["p50 / p95 / p99 ms, batch 1, 32 tokens"][0] == "1.25 / 1.50 / 2.5016.0x faster"
    assert rows["p50 / p95 / p99 ms, batch 16, 32 tokens"][1] == "160.00 / 192.00 / 320.00"
    assert rows["accuracy, 95 % interval"] == ["0.9350 / 0.9530", "-", "-", "-"]
    assert rows["joules per 1,000 requests"][0] == "12.5"
    assert rows["answers as the teacher does"] == ["97.12%", "-", "-", "87.00%"]
    assert rows["calibration error (ECE)"] == ["0.0523", "0.0412", "-", "-"]
    assert rows["size, MB"] == ["15.06.0x smaller", "90.0", "99.01.1x larger", "-"]
    assert list(rows)[-1] == "share of the int8 peak, batch 1, 32 tokens"
    assert rows["share of the int8 peak, batch 1, 32 tokens"] == ["31.8%", "-", "-", "-"]


def test_the_final_evaluation_says_what_a_cascades_first_model_answers():
    winner = answer(0.94, 1.0, first_share=0.725)
    winner["latency"]["mix"] = {"p50_ms": 0.5, "p95_ms": 2.0, "p99_ms": 3.0, "mean_ms": 0.9}
    found = page(evaluation={**EVALUATION, "answers": {"winner": winner}})
    rows = {row[0]: row[1] for row in found.tables[1][1:]}
    assert rows["answered by the first model of a cascade"] == "72.5%"
    assert rows["p50 / p95 / p99 ms, a row as it comes"] == "0.50 / 2.00 / 3.00"
    assert rows["mean ms, a row as it comes"] == "0.90"


def test_the_final_evaluation_does_without_a_teacher():
    alone = {"answers": {"winner": EVALUATION["answers"]["winner"]}, "shapes": SHAPES}
    alone |= {"task": "classify", "first": [], "behind": []}
    found = page(evaluation=alone)
    assert found.tables[1][1] == ["accuracy", "0.9440"]
    assert "compare with the teacher" not in found.text and "its teacher" not in found.text


def test_what_the_baselines_say_is_the_first_sentence():
    words = page(evaluation=EVALUATION).words()
    assert words.index(VERDICT) < words.index("inside the budget,") < words.index("Winner: trial")


def test_what_the_winner_holds_is_said_of_the_figures_taken_beside_the_baselines():
    words = page(evaluation=EVALUATION).words()
    tiles = words[words.index("these figures are of the test rows") : words.index("Its values")]
    assert "retention 93.21% at least 99.00%, not held" in tiles and "p95 latency 1.77 ms at most 2.00 ms" in tiles
    assert "these figures are of the test rows" not in page().words()


def test_classes_and_slices_where_the_winner_is_behind_are_a_table():
    found = page(evaluation=EVALUATION)
    assert "Where the winner differs from its teacher" in found.text
    assert found.tables[2] == [
        ["class or slice", "rows", "teacher", "winner", "points"],
        ["class: card_<b>arrival</b>", "40", "95.0%", "87.5%", "-7.5"],
        ["channel: phone", "900", "90.0%", "89.0%", "-1.0"],
    ]


def test_a_winner_that_is_nowhere_behind_is_said_to_be():
    found = page(evaluation={**EVALUATION, "behind": []})
    assert "In no class or slice of enough rows is the winner behind its teacher." in found.words()
    assert len(found.tables) == 3


def test_how_the_figures_were_taken_stands_below_them():
    assert "Energy: an estimate of <what>." in page(evaluation=EVALUATION).words()


def test_without_a_final_evaluation_nothing_is_said_about_the_test_file():
    assert "test file" not in page().text


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


def test_what_is_wrong_with_the_rows_stands_in_a_section_of_its_own():
    train = {"rows": 1200, "repeated": 3, "contradicting": 2, "unknown_share": 0.126, "cut_share": 0.0}
    test = {"rows": 80, "repeated": 0, "contradicting": 0, "unknown_share": 0.5, "cut_share": 0.25}
    rows = {"splits": {"train": train, "unlabelled": {"rows": 9, "repeated": 1, "contradicting": 0}}, "words": []}
    said = {"splits": {"test": test}, "words": ["7 of 80 rows of data.test have the text of a row of data.train"]}
    found = page(evaluation=EVALUATION | {"rows": said}, rows=rows)
    table = next(table for table in found.tables if table[0][0] == "rows of")
    assert [row[:4] for row in table[1:]] == [
        ["training", "1,200", "12.6%", "0.0%"],
        ["unlabelled", "9", DASH, DASH],
        ["test", "80", "50.0%", "25.0%"],
    ]
    assert [row[4:] for row in table[1:]] == [["3", "2"], ["1", "0"], ["0", "0"]]
    assert "7 of 80 rows of data.test have the text of a row of data.train." in found.text
    assert "No validation or test row has the text" not in found.text
    assert "No validation or test row has the text" in page(rows=rows).text
    assert all(table[0][0] != "rows of" for table in page().tables)
