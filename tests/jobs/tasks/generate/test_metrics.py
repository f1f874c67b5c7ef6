from __future__ import annotations

import pytest
import sacrebleu

from jobs.data.source import Row, Slots
from jobs.tasks.generate.metrics import score, slot_error_rate, statistics, value
from serving.inputs import prompt

TV: Slots = (("name", "Apollo 73"), ("screen", "40 inch"), ("usb", "true"))
RADIO: Slots = (("name", "Hermes 9"), ("colour", "matt black finish"))
KNOWN = {*TV, *RADIO}


def test_a_completion_starts_on_a_new_line():
    assert (prompt("a", None), prompt("a", "b")) == ("a\n", "a\nb\n")


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("The apollo 73 has a 40 inch screen.", 0),
        ("The Apollo 73 has a screen.", 1 / 2),
        ("It has a screen.", 1),
        ("The Apollo 731 has a 140 inch screen.", 1),  # whole words only
        ("The Apollo 73 has a 40 inch screen and a matt black finish.", 1 / 2),
        ("The Apollo 73 and the Hermes 9 have 40 inch screens.", 1 / 2),
    ],
)
def test_slot_error_rate_counts_what_is_missing_and_what_was_not_asked(text: str, rate: float):
    assert slot_error_rate([text], [TV], KNOWN) == rate


def test_slot_error_rate_is_over_all_slots_of_all_texts():
    texts = ["Apollo 73 40 inch", "Hermes 9"]
    assert slot_error_rate(texts, [TV, RADIO], KNOWN) == 1 / 4


def test_the_references_themselves_score_the_most():
    rows = [
        Row("p", None, "The Apollo 73 has a 40 inch screen .", TV),
        Row("q", None, "a Hermes 9 in matt black finish", RADIO),
    ]
    found = score([row.label for row in rows], rows)
    assert found["bleu"] == pytest.approx(100)
    assert found["rouge_l"] == pytest.approx(100)
    assert found["slot_error_rate"] == found["reference_slot_error_rate"] == 0


def test_rows_with_one_prompt_are_references_of_one_another():
    texts = ["the cat sat on the mat today", "a dog lay in front of the door"]
    rows = [Row("p", None, text) for text in texts]
    assert score(texts[::-1], rows)["bleu"] == pytest.approx(100)
    apart = [Row(text, None, text) for text in texts]
    assert score(texts[::-1], apart)["bleu"] < 10


def test_bleu_is_sacrebleus():
    texts, said = (
        ["the cat sat on the mat", "the dog lay there all day"],
        ["the cat sat on a mat", "the dog lay all day"],
    )
    found = score(said, [Row(text, None, text) for text in texts])
    assert found["bleu"] == sacrebleu.corpus_bleu(said, [texts]).score
    assert "slot_error_rate" not in found


def test_what_is_counted_of_each_row_adds_up_to_the_bleu_of_all():
    rows = [
        Row("p", None, "The Apollo 73 has a 40 inch screen ."),
        Row("p", None, "A screen of 40 inch has the Apollo 73 ."),
        Row("q", None, "The Hermes 9 has a matt black finish ."),
        Row("r", None, "No ."),
    ]
    said = ["The Apollo 73 has a 40 inch screen .", "The Apollo has a screen .", "The Hermes 9 is black .", "No"]
    counted_NS = statistics(said, rows)
    assert counted_NS.shape == (4, 10)
    assert value(counted_NS.sum(axis=0)) == pytest.approx(score(said, rows)["bleu"])
    assert value(counted_NS[:1].sum(axis=0)) == pytest.approx(100)


@pytest.mark.parametrize(("texts", "slots"), [([], []), (["It is an Apollo 73 with a matt black finish."], [()])])
def test_slot_error_rate_is_0_where_nothing_was_asked(texts: list[str], slots: list[Slots]):
    assert slot_error_rate(texts, slots, KNOWN) == 0
    assert slot_error_rate(texts, slots, ()) == 0


def test_what_was_not_asked_is_wrong_beside_a_row_of_slots():
    texts, black = ["Apollo 73 40 inch", "It is an Apollo 73 with a matt black finish."], "matt black finish"
    assert slot_error_rate(texts, [TV, ()], KNOWN) == 2 / 2
    assert slot_error_rate(texts, [TV, (("colour", black),)], KNOWN) == 1 / 3
    assert slot_error_rate(["Apollo 73"], [(*TV, ("colour", black))], KNOWN) == 2 / 3
