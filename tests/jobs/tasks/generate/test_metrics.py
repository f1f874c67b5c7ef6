from __future__ import annotations

import random

import pytest
import regex
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from jobs.data.source import Row, Slots
from jobs.tasks.generate.metrics import score, slot_error_rate, statistics, value
from serving.inputs import prompt
from tests.tiny.scripts import EVERY, PARTED, UNPARTED

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


def rows_of(texts: list[str]) -> list[Row]:
    """Each the answer to a prompt of its own, whose beginning is an attribute."""
    return [Row(str(number), None, text, (("name", name_in(text)),)) for number, text in enumerate(texts)]


def name_in(text: str) -> str:
    return text.split()[0] if " " in text else "".join(parts_of(text)[:2])


def parts_of(text: str) -> list[str]:
    """Its words, or, where it has but one, what a reader takes for its characters."""
    return text.split() if " " in text else regex.findall(r"\X", text)


@pytest.mark.parametrize("script", EVERY)
def test_perfect_answers_are_perfect_in_every_script_and_those_of_another_row_are_not(script: str):
    rows = rows_of(EVERY[script])
    texts = [row.label for row in rows]
    found = score(texts, rows)
    assert found["bleu"] == pytest.approx(100) and found["rouge_l"] == pytest.approx(100)
    assert found["slot_error_rate"] == found["reference_slot_error_rate"] == 0
    other = score(texts[::-1], rows)
    assert other["bleu"] < 25 and other["rouge_l"] < 60 and other["slot_error_rate"] == 1
    assert value(statistics(texts, rows).sum(axis=0)) == pytest.approx(100)
    assert value(statistics(texts[::-1], rows).sum(axis=0)) == pytest.approx(other["bleu"])


@pytest.mark.parametrize("script", EVERY)
def test_shuffled_answers_are_not_perfect(script: str):
    rows, chance = rows_of(EVERY[script]), random.Random(0)
    between, parts = " " if script in PARTED else "", [parts_of(row.label) for row in rows]
    found = score([between.join(chance.sample(each, len(each))) for each in parts], rows)
    assert 0 < found["rouge_l"] < 90 and found["bleu"] < 60


@pytest.mark.parametrize("script", EVERY)
def test_half_of_an_answer_has_half_of_its_units(script: str):
    """All that it says is right, so F = 2 r / (1 + r) of the share r that it says."""
    (text, _), between = EVERY[script], " " if script in PARTED else ""
    parts = parts_of(text)
    half = score([between.join(parts[: len(parts) // 2])], [Row("p", None, text)])
    share = (half["rouge_l"] / 100) / (2 - half["rouge_l"] / 100)
    assert share == pytest.approx(0.5, abs=0.15)


def test_chinese_bleu_is_that_of_sacrebleus_tokenizer():
    texts = [*UNPARTED["Han"], "“快递”还没到……订单40元,iPhone 15手机壳。"]
    said = ["我的包裹到哪里了", "这条裙子想退款", "快递没到,订单40元,iPhone 15壳。"]
    expected = sacrebleu.corpus_bleu(said, [texts], tokenize="zh").score
    assert score(said, rows_of(texts))["bleu"] == expected and 0 < expected < 100


ENGLISH = ["The cat's \"mat\" (40-inch), isn't it?", "a_b C-3 &amp; 1,000.50 <b>ok</b>", "Don't; U.S.A. 10%"]
MEANT = ["The cat mat (40 inch) is it?", "a_b C-4 & 1,000.5 <b>ok</b> !", "Do not; U.S. 10 %"]


def test_figures_of_english_are_those_of_the_libraries_to_the_digit():
    found, scorer = score(MEANT, rows_of(ENGLISH)), RougeScorer(["rougeL"])
    assert found["bleu"] == sacrebleu.corpus_bleu(MEANT, [ENGLISH]).score
    rouge = [scorer.score(text, said)["rougeL"].fmeasure for text, said in zip(ENGLISH, MEANT, strict=True)]
    assert found["rouge_l"] == 100 * sum(rouge) / len(rouge)


def test_figures_of_russian_are_sacrebleus_default():
    texts, said = PARTED["Cyrillic"], ["Где моя посылка сейчас", "Хочу вернуть деньги за платье сейчас"]
    assert score(said, rows_of(texts))["bleu"] == sacrebleu.corpus_bleu(said, [texts]).score > 0


@pytest.mark.parametrize("text", ["it is good", "很好", "да", "😀", "\uff01"])
def test_a_short_answer_that_is_perfect_is_perfect(text: str):
    """With fewer than four units BLEU counts the strings of units that there are; sacrebleu's own is 0."""
    found = score([text], [Row("p", None, text)])
    assert found["bleu"] == pytest.approx(100) and found["rouge_l"] == pytest.approx(100)


def test_a_text_is_the_same_however_its_accents_were_typed():
    rows = [Row("p", None, "un caf\u00e9 cr\u00e8me tr\u00e8s chaud", (("drink", "CAF\u00c9"),))]
    found = score(["un cafe\u0301 cre\u0300me tre\u0300s chaud"], rows)
    assert (round(found["bleu"], 6), found["rouge_l"], found["slot_error_rate"]) == (100, 100, 0)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("这款阿波罗电视是40寸。", 0),
        ("这款阿波罗电视是140寸。", 1 / 2),  # whole numbers only
        ("这款电视是\uff14\uff10寸。", 1 / 2),  # in full width
        ("这款阿波罗电视是40寸\uff0c红色。", 0),  # a chance word
        ("这款阿波罗电视是40寸\uff0c哑光黑色外壳。", 1 / 2),  # several words that were not asked for
    ],
)
def test_slot_errors_of_characters(text: str, rate: float):
    tv: Slots = (("name", "阿波罗"), ("screen", "40寸"))
    assert slot_error_rate([text], [tv], {*tv, ("colour", "红色"), ("finish", "哑光黑色外壳")}) == rate
