from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from jobs.data import round_trip
from jobs.data.round_trip import Losses, losses
from jobs.data.tokenise import END, train_tokenizer
from tests.tiny.shop import tokenizer


def of(made: Tokenizer, *texts: str) -> Losses:
    return losses(made, texts, made.encode_batch(list(texts), add_special_tokens=False))


def pieces(*words: str, accents: bool = True) -> Tokenizer:
    """Words and Chinese characters as BERT cuts them, with its decoder."""
    made = tokenizer([" ".join(words)])
    made.normalizer = normalizers.BertNormalizer(lowercase=not accents, strip_accents=None if accents else True)  # type: ignore[assignment]
    made.decoder = decoders.WordPiece(cleanup=False)  # type: ignore[assignment]
    return made


TEXTS = ["Your order <order_id> is late.", "快递还没到", "  two\n\tlines ", "naïve café 😀", "42"]


def test_bytes_give_every_text_back():
    assert of(train_tokenizer(TEXTS[:1], 300), *TEXTS) == (5, 0, {})


@pytest.mark.parametrize(
    ("made", "text", "cause"),
    [
        (pieces("快 递 还 没 到"), "快递还没到", round_trip.SPACES),
        (pieces("order late"), "order\nlate", round_trip.SPACES),
        (pieces("your order", accents=False), "Your order", round_trip.CASE),
        (pieces("naive cafe", accents=False), "naïve café", round_trip.ACCENTS),
        (pieces("order"), "order 😀", round_trip.UNKNOWN),
        (pieces("a b"), "a\u200b b", round_trip.ACCENTS),
    ],
    ids=["characters", "lines", "capitals", "accents", "unknown", "zero width"],
)
def test_what_is_lost_has_a_cause(made: Tokenizer, text: str, cause: str):
    lost = of(made, text)
    assert (lost.rows, lost.changed, dict(lost.causes)) == (1, 1, {cause: 1})


@pytest.mark.parametrize("placeholder", ["<order_id>", "{name}", END])
def test_a_placeholder_that_is_a_special_token_vanishes(placeholder: str):
    made = train_tokenizer(TEXTS, 400)
    text = f"your order {placeholder} is late"
    if placeholder != END:
        assert of(made, text).changed == 0  # as a text like any other it is written
        made.add_special_tokens([placeholder])
    assert of(made, text, "your order is late").causes == {round_trip.SPECIAL.format(repr(placeholder)): 1}


def test_a_token_that_is_added_as_a_word_does_not_vanish():
    made = train_tokenizer(TEXTS, 400)
    made.add_tokens(["<order_id>"])
    assert of(made, "your order <order_id> is late").changed == 0


def test_counts_come_with_the_causes_that_are_most_frequent():
    made = pieces("order now", accents=False)
    lost = of(made, "order", "Order", "ORDER", "order 快", "ORDER now")
    assert str(lost) == (
        f"4 of 5 (80.0%): {round_trip.CASE} (3); {round_trip.UNKNOWN} (1)"
    )  # fmt: skip
    assert lost.share == 0.8
    assert Losses(0, 0, lost.causes).share == 0


def test_a_tokenizer_without_unknown_tokens_has_none():
    made = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    made.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    assert of(made, "abc").causes == {round_trip.OTHER: 1}
