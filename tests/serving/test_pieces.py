from __future__ import annotations

import random

import pytest
from tokenizers import Tokenizer, models

from serving.pieces import Text
from tests.tiny.bundles import tokenizer as words
from tests.tiny.decoders import byte_tokenizer

BYTES = byte_tokenizer()
TEXTS = ["Danke! 🙂🙂 👩‍👩‍👧", "订单已发货、谢谢。", "naïve café", "a\ufffdb", "", " ", "🙂", "no\x00thing\n\n"]


def pieces(tokenizer: Tokenizer, ids: list[int], stop: list[str] | None = None) -> tuple[list[str], bool]:
    text = Text(tokenizer, stop or [])
    came = []
    for token in ids:
        came.append(text.add(token))
        if text.stopped:
            break
    return [*came, text.end()], text.stopped


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_whole_characters_and_together_the_text(text: str):
    came, _ = pieces(BYTES, BYTES.encode(text).ids)
    assert "".join(came) == text
    assert all(each.encode() for each in came if each)
    if "\ufffd" not in text:
        assert not any("\ufffd" in each for each in came)


def test_any_bytes_give_what_the_tokenizer_gives_but_for_an_end_that_is_no_character():
    chance = random.Random(0)
    likely = BYTES.encode("🙂中é a").ids
    for _ in range(1000):
        ids = [chance.choice(likely) if chance.random() < 0.7 else chance.randrange(256) for _ in range(12)]
        assert "".join(pieces(BYTES, ids)[0]) == BYTES.decode(ids).rstrip("\ufffd")


def test_a_character_that_is_cut_off_is_never_sent():
    came, _ = pieces(BYTES, BYTES.encode("ok 🙂").ids[:-1])
    assert "".join(came) == "ok "


def test_words_keep_the_spaces_between_them():
    ids = words(pairs=False).encode("where is my order", add_special_tokens=False).ids
    assert pieces(words(pairs=False), ids)[0] == ["where", " is", " my", " order", ""]


@pytest.mark.parametrize(
    ("text", "stop", "kept"),
    [
        ("one STOP two", ["STOP"], "one "),
        ("one STO two", ["STOP"], "one STO two"),
        ("one STOSTOP", ["STOP"], "one STO"),
        ("one ST", ["STOP"], "one ST"),
        ("aab", ["ab"], "a"),
        ("a\nb", ["\n", "b"], "a"),
        ("abcd", ["cd", "bcdx"], "ab"),
        ("订单🙂完", ["🙂"], "订单"),
        ("STOP", ["STOP"], ""),
        ("ababac", ["abac"], "ab"),
    ],
)
def test_a_text_ends_before_the_first_stop_string_wherever_tokens_are_cut(text: str, stop: list[str], kept: str):
    came, stopped = pieces(BYTES, BYTES.encode(text).ids, stop)
    assert "".join(came) == kept
    assert stopped == (kept != text)
    once = Tokenizer(models.WordLevel({text: 0}, "?"))
    assert "".join(pieces(once, [0], stop)[0]) == kept


def test_what_may_begin_a_stop_string_is_held_until_it_does_not():
    came, _ = pieces(BYTES, BYTES.encode("a STOX").ids, ["STOP"])
    assert came == ["a", " ", "", "", "", "STOX", ""]
