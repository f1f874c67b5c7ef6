from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from tokenizers import Tokenizer

from jobs.data.shop import messages
from jobs.measure.contenders import Answer, Predictor
from jobs.measure.timing import ROUNDS, WARM_UP, interleaved, texts_of_length
from serving.inputs import Input
from tests.tiny_shop import tokenizer

TEXTS = [row["text"] for row in messages("train")][:200]


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return tokenizer(TEXTS)


@pytest.mark.parametrize("tokens", [3, 4, 16, 32, 128])
def test_texts_have_exactly_that_many_tokens(words: Tokenizer, tokens: int):
    found = texts_of_length(TEXTS, words, tokens, 50)
    assert len(found) == 50
    assert {len(words.encode(text)) for text in found} == {tokens}  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("tokens", [5, 16, 33])
def test_pairs_have_exactly_that_many_tokens_shared_by_two_texts(words: Tokenizer, tokens: int):
    found = texts_of_length(TEXTS, words, tokens, 50, pairs=True)
    assert len(found) == 50
    for pair in found:
        assert isinstance(pair, tuple) and all(pair)
        assert len(words.encode(*pair)) == tokens


def test_texts_are_cut_from_the_users_own(words: Tokenizer):
    found = texts_of_length(TEXTS, words, 12, 20)
    assert len(set(found)) > 10  # pyright: ignore[reportArgumentType]
    assert all(isinstance(text, str) and text in " ".join([*TEXTS, *TEXTS]) for text in found)


def test_few_short_texts_are_strung_together(words: Tokenizer):
    found = texts_of_length(["where is it", "cancel"], words, 40, 50)
    assert len(found) == 2
    assert {len(words.encode(text)) for text in found} == {40}  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("texts", "tokens", "pairs", "said"),
    [
        (TEXTS, 2, False, "2 tokens leave no room for a text beside 2 special tokens"),
        (TEXTS, 4, True, "4 tokens leave no room for a text beside 3 special tokens"),
        (["", " "], 16, False, "no text could be cut to 16 tokens"),
        (["", " "], 16, True, "no text could be cut to 16 tokens"),
        ([], 16, False, "no text could be cut to 16 tokens"),
    ],
)
def test_a_length_that_no_text_can_have_is_refused(
    words: Tokenizer, texts: list[str], tokens: int, pairs: bool, said: str
):
    with pytest.raises(ValueError, match=said):
        texts_of_length(texts, words, tokens, 50, pairs)


def recorder(name: str, calls: list[tuple[str, str]]) -> Predictor:
    def predict(inputs: Sequence[Input]) -> list[Answer]:
        calls.append((name, "+".join(map(str, inputs))))
        return [Answer("label")] * len(inputs)

    return predict


@pytest.mark.parametrize("wanted", [1, 10, 25, 300])
def test_every_predictor_answers_the_same_batches_equally_often(wanted: int):
    calls: list[tuple[str, str]] = []
    batches = [["a", "b"], ["c", "d"], ["e", "f"]]
    interleaved({name: recorder(name, calls) for name in ("x", "y", "z")}, batches, wanted)
    of_each = {name: [batch for caller, batch in calls if caller == name] for name in ("x", "y", "z")}
    assert of_each["x"] == of_each["y"] == of_each["z"]
    warm_up = min(WARM_UP, -(-wanted // ROUNDS))
    measured = of_each["x"][warm_up:]
    assert wanted <= len(measured) < wanted + ROUNDS
    assert measured == [["a+b", "c+d", "e+f"][index % 3] for index in range(len(measured))]


def test_predictors_take_turns_in_every_round():
    calls: list[tuple[str, str]] = []
    interleaved({name: recorder(name, calls) for name in ("x", "y")}, [["a"]], 100)
    names = [name for name, _ in calls[2 * 10 :]]  # after the warm-up of ten calls each
    turns = [names[start : start + 10] for start in range(0, len(names), 10)]
    assert [Counter(turn) for turn in turns] == [{"x": 10}, {"y": 10}] * ROUNDS


def test_latencies_are_milliseconds_of_each_call(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]

    def takes(seconds: list[float]) -> Predictor:
        def predict(inputs: Sequence[Input]) -> list[Answer]:
            now[0] += seconds[0]
            seconds.append(seconds.pop(0))
            return []

        return predict

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    found = interleaved({"steady": takes([0.002]), "rare": takes([0.001] * 9 + [0.1])}, [["a"]], 100)
    assert found["steady"] == {"p50_ms": pytest.approx(2), "p95_ms": pytest.approx(2)}
    assert found["rare"] == {"p50_ms": pytest.approx(1), "p95_ms": pytest.approx(100)}
