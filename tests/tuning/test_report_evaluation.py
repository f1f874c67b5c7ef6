from __future__ import annotations

from dataclasses import replace

from tests.tuning.pages import BUDGET, EVALUATION, SHAPES, TRIALS, VERDICT, answer, page
from tuning.chart import DASH
from tuning.figures import figures


def test_what_a_client_sees_stands_beside_what_the_model_takes():
    seen = {"served_p50_ms": 2.04, "served_p95_ms": 3.1}
    said = "A client of the service gets an answer in 2.04 ms (p50) and 3.10 ms (p95), "
    assert said in page(served=seen).words()
    alone = EVALUATION | {"metrics": {"winner_batch1_tokens32_p50_ms": 1.25}}
    assert "when it was deployed; the model alone takes 1.25 ms (p50)." in page(served=seen, evaluation=alone).words()
    assert "A client" not in page().words()


def test_the_time_of_a_text_in_service_is_not_held_against_that_of_a_text_of_a_stated_length():
    writes = [replace(each, metrics={**each.metrics, "ms_per_token": 0.5}) for each in TRIALS]
    words = page(writes, served={"served_p50_ms": 2.04, "served_p95_ms": 3.1}).words()
    assert "3.10 ms (p95), inputs of 32 tokens each over HTTP, when it was deployed." in words


def test_what_test_rows_say_of_the_budget_is_said_first():
    first = ["The winner is outside the budget on 1,000 test rows: retention 0.8433 misses it.", VERDICT]
    words = page(evaluation={**EVALUATION, "first": first}).words()
    assert words.index("outside the budget on 1,000") < words.index(VERDICT) < words.index("5 trials:")
    assert "No unseen row" not in words


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


WRITTEN = {
    "task": "generate",
    "metric": "chrf",
    "answers": {
        "winner": figures(
            {"bleu": 30.0, "bleu_low": 28.0, "bleu_high": 32.0, "chrf": 50.0, "bytes": 1e6},
            {
                "batch1_tokens32_answer1": {"p50_ms": 1.0, "p95_ms": 1.1, "p99_ms": 1.2},
                "batch1_tokens32_answer32": {"p50_ms": 32.0, "p95_ms": 33.0, "p99_ms": 40.0, "ms_per_token": 1.0},
                "batch4_tokens32_answer32": {"p50_ms": 64.0, "tokens_per_second": 2000.0},
            },
        ),
        "teacher": figures({"bleu": 40.0, "chrf": 60.0, "bytes": 8e6}),
    },
    "shapes": [[1, 32, 1], [1, 32, 32], [4, 32, 32]],
    "first": [],
    "examples": [
        {
            "prompt": "name: <b>Apollo</b>",
            "reference": "the Apollo",
            "teacher": "Apollo",
            "winner": "a",
            "score": 0.5,
        },
        {"prompt": "name: Hermes", "reference": "the Hermes", "teacher": "the Hermes", "winner": "the", "score": 31.25},
    ],
}


def test_rows_of_what_writes_stand_side_by_side_and_there_are_no_classes_to_be_behind_in():
    found = page(evaluation=WRITTEN)
    table = next(table for table in found.tables if table[0][0] == "prompt")
    assert table == [
        ["prompt", "reference", "teacher", "winner", "chrF"],
        ["name: <b>Apollo</b>", "the Apollo", "Apollo", "a", "0.5"],
        ["name: Hermes", "the Hermes", "the Hermes", "the", "31.25"],
    ]
    assert "differs from its teacher" not in found.text
    alone = {**WRITTEN, "answers": {"winner": WRITTEN["answers"]["winner"]}}
    assert ["prompt", "reference", "winner", "chrF"] in [table[0] for table in page(evaluation=alone).tables]
    assert "side by side" not in page(evaluation={**WRITTEN, "examples": []}).text


def test_what_writes_is_compared_by_its_first_token_by_tokens_and_by_texts_side_by_side():
    rows = {row[0]: row[1:] for row in page(evaluation=WRITTEN).tables[1][1:]}
    assert rows["BLEU, 95 % interval"] == ["28.00 / 32.00", "-"] and rows["BLEU"][0] == "30.0075.0% kept"
    assert rows["p50 / p95 / p99 ms, batch 1, prompts of 32 tokens, first token"][0] == "1.00 / 1.10 / 1.20"
    assert rows["ms for each token, batch 1, prompts of 32 tokens, answers of 32"][0] == "1.00"
    assert rows["tokens a second, batch 4, prompts of 32 tokens, answers of 32"][0] == "2,000"
    assert "tokens a second, batch 1, prompts of 32 tokens, first token" not in rows


def test_time_by_token_is_a_figure_of_what_writes_alone():
    paced = [replace(each, metrics={**each.metrics, "ms_per_token": 0.25}) for each in TRIALS if not each.error]
    found = page(paced, budget=BUDGET.model_copy(update={"max_ms_per_token": 0.5}))
    assert "time by token 0.25 ms at most 0.50 ms, 50.0% to spare" in found.words()
    assert "ms a token" in found.tables[-1][0]
    assert "a token" not in page().words() and "time by token" not in page().words()
