from __future__ import annotations

from collections.abc import Sequence

import pytest

from serving.generator import Generator, completions
from serving.inputs import InputError
from tests.tiny.bundles import decoder_description, tokenizer


class Echo:
    """Says a prompt again and again; it notes what it was asked together."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def complete(self, prompts: Sequence[Sequence[int]], max_length: int) -> list[list[int]]:
        self.asked.append([len(each) for each in prompts])
        return [(list(each) * max_length)[: max_length - len(each)] for each in prompts]


PROMPTS = [[1, 2, 3], [4], [5, 6], [7], [8, 9, 10]]


def test_completions_stand_in_the_order_of_their_prompts():
    together = completions(Echo(), PROMPTS, 5)
    assert together == [completions(Echo(), [each], 5)[0] for each in PROMPTS]
    assert together[1] == [4, 4, 4, 4] and together[0] == [1, 2]


@pytest.mark.parametrize("tokens_per_batch", [1, 3, 6, 100])
def test_prompts_of_one_length_are_answered_together_within_the_budget(tokens_per_batch: int):
    model = Echo()
    completions(model, PROMPTS, 5, tokens_per_batch)
    assert sorted(length for batch in model.asked for length in batch) == [1, 1, 2, 3, 3]
    assert all(len(set(batch)) == 1 for batch in model.asked)
    assert all(len(batch) == 1 or sum(batch) <= tokens_per_batch for batch in model.asked)
    assert len(model.asked) == {1: 5, 3: 4, 6: 3, 100: 3}[tokens_per_batch]


def generator(pairs: bool = False) -> Generator:
    bundle = decoder_description(pairs=pairs)
    return Generator(bundle, Echo(), tokenizer(pairs=False))


def test_inputs_are_prompts_without_special_tokens_and_answers_are_texts():
    assert generator().predict(["where is my order", "refund"]) == [
        {"text": "where is"},
        {"text": "refund refund refund refund refund"},
    ]
    assert generator(pairs=True).predict([{"text": "my", "text_pair": "order"}]) == [{"text": "my order my order"}]


def test_a_prompt_that_leaves_no_room_is_cut():
    assert generator().predict(["where is my order now please cancel it"]) == [{"text": "where"}]


def test_a_prompt_of_which_no_token_is_left_has_no_answer_whatever_stands_beside_it():
    model = Echo()
    assert completions(model, [[], [4], []], 3) == [[], [4, 4], []]
    assert completions(model, [[]], 3) == [[]]
    assert model.asked == [[1]]


def test_no_inputs_give_no_texts():
    assert generator().predict([]) == []


def test_a_wrong_input_is_named_by_its_index():
    with pytest.raises(InputError, match="input 1 is not a text"):
        generator().predict(["fine", 7])  # type: ignore[list-item]
