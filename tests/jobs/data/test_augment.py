from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator

from configs.schema.data import PoolSpec
from jobs.data.augment import Inputs, augmented, drop_words, fields, mask_words, mix_rows, mix_words, swap_words
from serving import units
from tests.tiny.scripts import EVERY, UNPARTED

WORDS = ["where", "is", "the", "red", "shoe", "that", "I", "ordered"]
GIVEN: list[Inputs] = [
    ("where is my order", None),
    ("refund  it please", None),
    ("color: red; size: 38; brand: acme", None),
]
PAIRS: list[Inputs] = [("red shoe", "a shoe, red"), ("blue hat", "hats in blue"), ("tea", "green tea")]
SEEDS = range(20)
MASK = "[MASK]"
OPERATIONS: dict[str, Callable[[list[str], Generator], list[str]]] = {
    "drop_words": lambda words, chance: drop_words(words, 0.3, chance),
    "mask_words": lambda words, chance: mask_words(words, 0.3, MASK, chance),
    "swap_words": lambda words, chance: swap_words(words, 0.3, chance),
}


class Scripted:
    """Chance whose every word comes at `numbers`; what it permutes keeps its order."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = np.array(numbers)

    def random(self, count: int | None = None) -> Any:
        return self.numbers[0] if count is None else self.numbers[:count]

    def permutation(self, values: np.ndarray) -> np.ndarray:
        return values

    def integers(self, high: int, size: int) -> np.ndarray:
        return np.full(size, high - 1)


def scripted(*numbers: float) -> Any:
    return Scripted(*numbers)


def is_subsequence(part: Iterable[str], whole: Iterable[str]) -> bool:
    rest = iter(whole)
    return all(word in rest for word in part)


def pool(
    rows: int, given: list[Inputs] = GIVEN, seed: int = 0, shares: dict[str, float] | None = None
) -> list[tuple[str, Inputs]]:
    spec = PoolSpec.model_validate({"rows": rows} | (shares or {}))
    return list(augmented(given, given, spec, MASK, seed))


def only(operation: str) -> dict[str, float]:
    return {name: float(name == operation) for name in PoolSpec().shares}


def test_operations_change_the_words_that_chance_names():
    chance = scripted(0.1, 0.9, 0.1, 0.9)
    assert drop_words(["a", "b", "c", "d"], 0.2, chance) == ["b", "d"]
    assert mask_words(["a", "b", "c", "d"], 0.2, MASK, chance) == [MASK, "b", MASK, "d"]
    assert swap_words(["a", "b", "c", "d"], 0.2, chance) == ["b", "a", "d", "c"]
    assert swap_words(["a", "b", "c", "d"], 0.2, scripted(0, 0, 0)) == ["b", "c", "d", "a"]
    assert mix_words(["a", "b", "c"], ["x", "y", "z", "w", "v"], scripted(0.5)) == ["a", "b", "z", "w", "v"]


def test_where_chance_names_no_word_one_is_changed_and_where_it_names_all_one_stays():
    none, every = scripted(0.9, 0.9, 0.9), scripted(0.1, 0.1, 0.1)
    assert drop_words(["a", "b", "c"], 0.2, none) == ["a", "b"]
    assert drop_words(["a", "b", "c"], 0.2, every) == ["c"]
    assert mask_words(["a", "b", "c"], 0.2, MASK, every) == [MASK, MASK, "c"]
    assert swap_words(["a", "b"], 0.2, none) == ["b", "a"]


@pytest.mark.parametrize("seed", SEEDS)
def test_what_an_operation_keeps(seed: int):
    made = {name: change(WORDS, np.random.default_rng(seed)) for name, change in OPERATIONS.items()}
    dropped, masked, swapped = made["drop_words"], made["mask_words"], made["swap_words"]
    assert 0 < len(dropped) < len(WORDS)
    assert is_subsequence(dropped, WORDS)
    assert {(new, old) for new, old in zip(masked, WORDS, strict=True) if new != old} <= {(MASK, old) for old in WORDS}
    assert 0 < masked.count(MASK) < len(WORDS)
    assert Counter(swapped) == Counter(WORDS)
    assert swapped != WORDS


@pytest.mark.parametrize("operation", ["drop_words", "mask_words"])
def test_the_share_of_changed_words_is_the_one_asked_for(operation: str):
    chance, words = np.random.default_rng(0), [str(number) for number in range(1000)]
    kept = [sum(word != MASK for word in OPERATIONS[operation](words, chance)) for _ in range(20)]
    assert np.mean(kept) == pytest.approx(700, rel=0.02)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mixture_is_the_beginning_of_one_text_and_the_end_of_another(seed: int):
    first, second = ["a", "b", "c", "d"], ["u", "v", "w", "x", "y", "z"]
    mixed = mix_words(first, second, np.random.default_rng(seed))
    cut = sum(word in first for word in mixed)
    assert 0 < cut < len(mixed) <= 1 + len(second)
    assert mixed == first[:cut] + second[cut - len(mixed) :]


def test_of_pairs_the_texts_meet_anew():
    assert mix_rows(("red shoe", "a shoe"), ("blue hat", "hats"), np.random.default_rng(0)) == ("red shoe", "hats")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("color: red; size: 38", ["color: red", "size: 38"]),
        ("name: Apollo: the big one; inch: 40", ["name: Apollo: the big one", "inch: 40"]),
        ("color: red", []),
        ("hello; where is my order: 12?", []),
        ("hello", []),
    ],
)
def test_fields_are_names_with_values(text: str, parts: list[str]):
    assert fields(text) == parts


def test_fields_are_left_out_whole_and_only_of_attributes():
    made = [text for _, (text, _) in pool(4, shares=only("drop_fields"))]
    whole = fields(GIVEN[2][0])
    assert len(made) == 4
    for text in made:
        kept = text.split("; ")
        assert 0 < len(kept) < len(whole)
        assert is_subsequence(kept, whole)


@pytest.mark.parametrize("operation", ["drop_words", "mask_words", "swap_words", "mix_rows"])
def test_an_operation_makes_new_rows_of_texts_and_of_pairs(operation: str):
    for given in (GIVEN, PAIRS):
        made = pool(6, given, shares=only(operation))
        assert {name for name, _ in made} == {operation}
        assert {pair is None for _, (_, pair) in made} == {given is GIVEN}


def test_rows_are_neither_given_ones_nor_equal_to_one_another():
    rows = [row for _, row in pool(100)]
    texts = [" ".join(text.split()) for text, _ in [*GIVEN, *rows]]
    assert len(rows) == 100
    assert len(set(texts)) == len(texts)


def test_the_same_seed_makes_the_same_rows_and_fewer_are_the_first_of_more():
    assert pool(50) == pool(50)
    assert pool(50) == pool(100)[:50]
    assert pool(50) != pool(50, seed=1)


def test_shares_say_how_often_an_operation_is_drawn():
    given: list[Inputs] = [(" ".join(f"w{row}-{word}" for word in range(12)), None) for row in range(50)]
    made = Counter(name for name, _ in pool(2000, given, shares={"drop_words": 3, "swap_words": 0}))
    assert made["drop_words"] / made["mask_words"] == pytest.approx(3, rel=0.2)
    assert made["mix_rows"] / made["mask_words"] == pytest.approx(1, rel=0.2)
    assert made.keys() == {"drop_words", "mask_words", "mix_rows"}


def test_where_no_more_can_be_made_fewer_come():
    assert [row for _, row in pool(10, [("a b", None)], shares=only("swap_words"))] == [("b a", None)]
    assert pool(10, [("word", None)], shares=only("drop_words")) == []


@pytest.mark.parametrize("script", UNPARTED)
@pytest.mark.parametrize("operation", ["drop_words", "mask_words", "swap_words"])
def test_characters_are_changed_where_a_script_has_no_spaces(operation: str, script: str):
    whole = {text: units.pieces(text) for text in UNPARTED[script]}
    for _, (text, _) in pool(12, [(each, None) for each in whole], shares=only(operation)):
        parts = units.pieces(text.replace(MASK, " "))
        if operation == "swap_words":
            assert any(Counter(parts) == Counter(each) and parts != each for each in whole.values())
        else:
            assert any(is_subsequence((p.strip() for p in parts), each) for each in whole.values())
            assert (MASK in text) == (operation == "mask_words")
        assert MASK in text or " " not in text


@pytest.mark.parametrize("script", UNPARTED)
def test_no_mixture_of_texts_without_spaces_is_a_pair_of_messages(script: str):
    texts = UNPARTED[script]
    made = [text for _, (text, _) in pool(10, [(each, None) for each in texts], shares=only("mix_rows"))]
    assert len(made) == 10
    assert all(" " not in text for text in made)
    assert max(len(units.pieces(text)) for text in made) < sum(len(units.pieces(text)) for text in texts)


@pytest.mark.parametrize("script", EVERY)
def test_operations_keep_the_spaces_that_a_text_has(script: str):
    """Mixed text: a word keeps its spaces, and characters beside it those that they had."""
    text = f"{EVERY[script][0]} Acme 2 {EVERY[script][1]}"
    for _, (new, _) in pool(6, [(text, None)], shares=only("drop_words")):
        assert is_subsequence((each.strip() for each in units.pieces(new)), [p.strip() for p in units.pieces(text)])
        assert len(new.split()) <= len(text.split())
