from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from configs.loader import UsageError
from jobs.data.shop import messages
from jobs.data.tokenise import train_tokenizer
from jobs.data.vocabulary import merges_of, reduced
from tests.tiny.shop import SPECIAL, tokenizer

TEXTS = [row["text"] for row in itertools.islice(messages("train"), 300)]
SEEN = TEXTS[:60]
FRAME = ["<s>", "<pad>", "</s>", "<unk>"]


def word_pieces() -> Tokenizer:
    """As BERT's; its padding is set, as sentence encoders save it."""
    made = tokenizer(TEXTS)
    made.enable_padding(pad_id=0, pad_token="[PAD]")
    return made


def byte_pairs() -> Tokenizer:
    """As RoBERTa's: special tokens first, and one outside the model at the end."""
    written = json.loads(train_tokenizer(TEXTS, 900).to_str())
    written["model"]["vocab"] = {
        token: index + len(FRAME) for token, index in written["model"]["vocab"].items() if token != "<|endoftext|>"
    }
    moved = sorted(written["model"]["vocab"], key=written["model"]["vocab"].__getitem__)
    written["model"]["vocab"] = {token: index for index, token in enumerate([*FRAME, *moved])}
    written["added_tokens"] = []
    made: Any = Tokenizer.from_str(json.dumps(written))
    made.add_special_tokens([*FRAME, "<mask>"])
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return made


def likeliest() -> Tokenizer:
    """As XLM-R's."""
    made: Any = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=500, special_tokens=FRAME, unk_token="<unk>", show_progress=False)
    made.train_from_iterator(TEXTS, trainer)
    made.post_processor = processors.Sequence(
        [
            processors.TemplateProcessing(
                single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
            )
        ]
    )
    return made


KINDS = {"WordPiece": word_pieces(), "byte-level BPE": byte_pairs(), "Unigram": likeliest()}


@pytest.fixture(params=KINDS)
def whole(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer.from_str(KINDS[request.param].to_str())


def ids(made: Tokenizer, texts: list[str]) -> list[list[int]]:
    """One by one: nothing is padded."""
    return [made.encode(text).ids for text in texts]


def used(made: Tokenizer, texts: list[str]) -> set[int]:
    return set(itertools.chain.from_iterable(ids(made, texts)))


@pytest.mark.parametrize(
    ("kind", "characters"),
    [("WordPiece", "all"), ("WordPiece", "seen"), ("byte-level BPE", "all"), ("Unigram", "all"), ("Unigram", "seen")],
)
def test_texts_of_wanted_tokens_are_cut_into_the_same_tokens_under_new_numbers(kind: str, characters: Any):
    whole = KINDS[kind]
    wanted = used(whole, SEEN)
    smaller, kept = reduced(whole, wanted, characters)
    assert len(kept) == smaller.get_vocab_size() < whole.get_vocab_size()
    assert kept == sorted(kept)
    assert all(whole.id_to_token(old) == smaller.id_to_token(new) for new, old in enumerate(kept))
    renumbered = {old: new for new, old in enumerate(kept)}
    covered = [text for text, found in zip(TEXTS, ids(whole, TEXTS), strict=True) if set(found) <= wanted]
    assert len(covered) > len(SEEN)
    assert ids(smaller, covered) == [[renumbered[index] for index in found] for found in ids(whole, covered)]


def test_the_first_and_the_last_token_may_be_wanted_and_ids_outside_are_none(whole: Tokenizer):
    last = whole.get_vocab_size() - 1
    assert (whole.id_to_token(last), whole.id_to_token(last + 1)) != (None, None) == (None, whole.id_to_token(last + 1))
    inner = max(index for name, index in whole.get_vocab(with_added_tokens=False).items() if len(name) > 1)
    smaller, kept = reduced(whole, {-1, 0, inner, last, last + 1, 10**9}, "all")
    assert {0, inner, last} <= set(kept) <= set(range(last + 1))
    assert sorted(smaller.get_vocab().values()) == list(range(len(kept)))
    assert [smaller.id_to_token(new) for new in (0, len(kept) - 1)] == [whole.id_to_token(old) for old in (0, last)]
    found = ids(smaller, TEXTS)
    assert min(map(min, found)) >= 0 and max(map(max, found)) < len(kept)
    assert reduced(whole, {-1, last + 1, 10**9}, "all")[1] == reduced(whole, set(), "all")[1]


def test_all_tokens_wanted_is_the_same_tokenizer(whole: Tokenizer):
    smaller, kept = reduced(whole, set(range(whole.get_vocab_size())), "all")
    assert kept == list(range(whole.get_vocab_size()))
    assert smaller.get_vocab() == whole.get_vocab()
    assert ids(smaller, TEXTS[:20]) == ids(whole, TEXTS[:20])


def test_other_texts_stay_encodable(whole: Tokenizer):
    """What was no unknown token becomes none, and what can be written back is."""
    smaller, _ = reduced(whole, used(whole, SEEN[:10]), "all")
    unknown = {made.token_to_id(name) for made in (whole, smaller) for name in ("[UNK]", "<unk>")}
    assert not unknown & used(whole, TEXTS)
    assert not unknown & used(smaller, TEXTS)
    assert max(map(len, ids(smaller, TEXTS))) > max(map(len, ids(whole, TEXTS)))
    if whole.decoder is not None:
        assert smaller.decode_batch(ids(smaller, TEXTS)) == whole.decode_batch(ids(whole, TEXTS))


def test_special_tokens_stay_and_frame_a_text_and_a_pair(whole: Tokenizer):
    smaller, _ = reduced(whole, used(whole, ["a", "b"]), "all")
    assert smaller.padding is None or smaller.padding["pad_id"] == smaller.token_to_id(smaller.padding["pad_token"])
    for texts in (("a",), ("a", "b")):
        before, after = (each.encode(texts[0], texts[1] if len(texts) > 1 else None) for each in (whole, smaller))
        assert before.tokens == after.tokens
        assert before.special_tokens_mask == after.special_tokens_mask
        assert after.ids == [smaller.token_to_id(token) for token in after.tokens]


def test_characters_that_wanted_tokens_do_not_hold_go_where_asked_for():
    whole = word_pieces()
    smaller, _ = reduced(whole, used(whole, ["aab aab"]), "seen")
    letters = {token.removeprefix("##") for token in smaller.get_vocab() if token not in SPECIAL}
    assert {"a", "b"} <= letters and not {"c", "z", "1"} & letters
    assert smaller.encode("zz aab").tokens[1] == "[UNK]"


def test_a_byte_level_tokenizer_keeps_all_bytes():
    whole = byte_pairs()
    smaller, kept = reduced(whole, set(), "all")
    assert len(kept) == 256 + len(FRAME) + 1
    assert smaller.decode(smaller.encode("Größe 東 🙂").ids) == "Größe 東 🙂"
    with pytest.raises(UsageError, match="needs all 256 bytes"):
        reduced(whole, set(), "seen")


def test_whole_words_keep_the_unknown_one():
    words = Tokenizer(models.WordLevel({"a": 0, "?": 1, "b": 2}, "?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    smaller, kept = reduced(words, {2}, "all")
    assert kept == [1, 2]
    assert smaller.encode("b a").ids == [1, 0]
    assert reduced(words, {0, 2}, "all")[1] == [0, 1, 2]
    assert reduced(words, {-1, 3}, "all")[1] == [1]


def test_the_merges_of_a_token_are_those_that_make_it_in_order_of_rank():
    rank = {("b", "c"): 0, ("a", "bc"): 1, ("a", "b"): 2, ("ab", "c"): 3}
    assert list(merges_of("abc", rank)) == [("b", "c"), ("a", "bc")]
    assert list(merges_of("ac", rank)) == []


def test_a_tokenizer_that_marks_the_ends_of_words_is_refused():
    made = Tokenizer(models.BPE({"a</w>": 0}, [], end_of_word_suffix="</w>"))
    with pytest.raises(UsageError, match="end of words is not known"):
        reduced(made, {0}, "all")
