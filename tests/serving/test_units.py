"""Units by script, held to the short way of ASCII, to sacrebleu's cut of Chinese and to rouge-score."""

from __future__ import annotations

import random
import re
import string
import unicodedata

import pytest
from rouge_score.tokenize import tokenize
from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

from serving import units
from tests.tiny.scripts import PARTED, UNPARTED

ASCII = ["".join(random.Random(seed).choices(string.printable, k=40)) for seed in range(50)]


@pytest.mark.parametrize("text", ASCII)
def test_both_ways_cut_ascii_alike(text: str):
    beyond = units._patterns()
    assert units.words(text) == [each for each in beyond.words.findall(text) if len(each) > 1]
    assert units.letters(text) == beyond.letters.findall(text.lower()) == tokenize(text, None)
    assert units.terms(text) == beyond.terms.findall(text) == re.findall(r"\w+|[^\w\s]", text)
    assert units.pieces(text) == beyond.pieces.findall(" ".join(text.split())) == text.split()
    assert units.together(text.split()) == " ".join(text.split())


@pytest.mark.parametrize("script", UNPARTED)
def test_a_script_without_spaces_is_cut_into_characters(script: str):
    for text in UNPARTED[script]:
        cut = units.letters(text)
        assert len(cut) > len(text.split()) and "".join(cut) in unicodedata.normalize("NFKC", text).replace(" ", "")
        assert not any(unicodedata.category(each[0]).startswith("M") for each in cut)


@pytest.mark.parametrize("script", PARTED)
def test_a_script_with_spaces_is_cut_into_words(script: str):
    for text in PARTED[script]:
        assert units.letters(text) == text.lower().split()
        assert units.pieces(text) == text.split()


@pytest.mark.parametrize("text", [text for texts in (*PARTED.values(), *UNPARTED.values()) for text in texts])
def test_pieces_make_their_text(text: str):
    assert units.together(units.pieces(text)) == " ".join(text.split())


def test_mixed_text_is_cut_by_runs():
    assert units.words("iPhone15手机壳 x 2个") == ["iPhone15", "手", "机", "壳", "个"]
    assert units.terms("第40号,ok?") == ["第", "40", "号", ",", "ok", "?"]
    assert units.pieces("要 Acme 手机壳 two") == ["要 ", "Acme", " 手", "机", "壳 ", "two"]
    assert units.together(["two", "Acme", "要 ", "壳", " 手"]) == "two Acme要 壳 手"


def test_chinese_is_cut_as_sacrebleu_cuts_it():
    text = "“快递”还没到……40元,请查iPhone 15。"
    assert TokenizerZh()(units.apart(text)) == TokenizerZh()(text)


def test_marks_stay_with_their_letter_however_they_were_typed():
    assert units.letters("cafe\u0301") == units.letters("caf\u00e9") == ["caf\u00e9"]
    assert units.letters("हिन्दी") == ["हिन्दी"]
    assert units.letters("가") == units.letters("\u1100\u1161")
    assert units.letters("\uff21\uff22\uff23\uff11") == ["abc1"]


@pytest.mark.parametrize(
    ("text", "long"),
    [("red dress", True), ("red", False), ("连衣裙", False), ("红色连衣裙", True), ("索尼X9", True), ("ខ្ញុំ", False)],
)
def test_characters_in_a_row_are_a_word_up_to_four(text: str, long: bool):
    assert units.several_words(text) is long


@pytest.mark.parametrize("signs", ["😀", "\uff01\uff1f", "👩‍👩‍👧", "\u200b"])
def test_signs_are_compared_where_a_text_has_nothing_else(signs: str):
    assert units.letters(signs) and units.letters(signs + "好") == ["好"]


def test_how_texts_are_cut_is_said():
    assert units.said(["where", "is it"]) == "words"
    assert units.said(["где", "أين"]) == "words"
    assert units.said(["快递"]) == "characters (Han)"
    assert units.said(["ok", "メール", "ส่ง"]) == "characters (Katakana, Thai), words elsewhere"
    assert units.said([]) == "words"
