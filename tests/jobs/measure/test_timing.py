from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from tokenizers import Tokenizer, models, processors
from tokenizers.pre_tokenizers import ByteLevel

from jobs.data.shop import messages
from jobs.measure.answers import Answer, Predictor
from jobs.measure.timing import BLOCKS, LEAST_CALLS, ROUNDS, SIGNS, WARM_UP, busy_words, interleaved, texts_of_length
from serving.inputs import Input
from tests.tiny.scripts import EVERY
from tests.tiny.shop import tokenizer
from tuning.figures import Figures, figures
from tuning.pareto import BUSY

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


@pytest.fixture(scope="module")
def of_bytes() -> Tokenizer:
    """A token for each byte: two and more for each letter that is not ASCII."""
    made = Tokenizer(models.BPE({each: place for place, each in enumerate(["<s>", *sorted(ByteLevel.alphabet())])}, []))
    made.pre_tokenizer = ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    made.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 0)])  # type: ignore[assignment]
    return made


@pytest.mark.parametrize("script", EVERY)
@pytest.mark.parametrize("tokens", [16, 31, 32, 33])
def test_letters_of_several_tokens_are_cut_whole(of_bytes: Tokenizer, script: str, tokens: int):
    for pairs in (False, True):
        found = texts_of_length(EVERY[script], of_bytes, tokens, 4, pairs)
        assert found
        for each in found:
            first, *second = parts = each if isinstance(each, tuple) else (each,)
            assert len(of_bytes.encode(first, second[0] if second else None)) == tokens
            own = " ".join(EVERY[script] * 3)
            assert all(part and part.rstrip("".join(SIGNS)) in own for part in parts)


def test_texts_are_cut_from_the_users_own(words: Tokenizer):
    found = texts_of_length(TEXTS, words, 12, 20)
    assert len(set(found)) > 10  # pyright: ignore[reportArgumentType]
    assert all(isinstance(text, str) and text in " ".join([*TEXTS, *TEXTS]) for text in found)


def test_few_short_texts_are_strung_together(words: Tokenizer):
    found = texts_of_length(["where is it", "cancel"], words, 40, 50)
    assert len(found) == 2
    assert {len(words.encode(text)) for text in found} == {40}  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("tokens", [5, 32, 128])
def test_texts_are_those_of_all_rows_joined_without_reading_all(words: Tokenizer, tokens: int, pairs: bool):
    read: list[int] = []

    class Counting(list[str]):
        def __getitem__(self, index: Any) -> Any:
            read.append(index)
            return super().__getitem__(index)

    long = [" ".join(TEXTS[number::10]) for number in range(10)]
    found = texts_of_length(Counting(long), words, tokens, 5, pairs)
    whole = [" ".join(long[(start + offset) % len(long)] for offset in range(tokens)) for start in range(len(long))]
    assert found == texts_of_length(whole, words, tokens, 5, pairs)
    assert len(read) <= 2 * len(found)


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
    steady, rare = found["steady"], found["rare"]
    assert [steady[each] for each in ("p50_ms", "p95_ms", "p99_ms")] == pytest.approx([2, 2, 2])
    assert [rare[each] for each in ("p50_ms", "p95_ms", "p99_ms")] == pytest.approx([1, 100, 100])
    assert (steady["calls"], rare["calls"]) == (100, 100)


def test_p99_is_between_the_two_slowest_of_a_hundred_calls(monkeypatch: pytest.MonkeyPatch):
    """numpy's linear interpolation: place 0.99 * 99 = 98.01 of the sorted times."""
    now, times = [0.0], iter([0.0] * 10 + [each / 1000 for each in range(1, 101)])

    def predict(inputs: Sequence[Input]) -> list[Answer]:
        now[0] += next(times)
        return []

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    found = interleaved({"x": predict}, [["a"]], 100)["x"]
    assert found["p99_ms"] == pytest.approx(99 + 0.01)
    assert found["p50_ms"] == pytest.approx(50.5)


@pytest.mark.parametrize(("milliseconds", "calls"), [(1, 300), (20, 100), (500, LEAST_CALLS)])
def test_slow_contenders_are_called_as_often_as_fits_and_twenty_times_at_least(
    monkeypatch: pytest.MonkeyPatch, milliseconds: float, calls: int
):
    now, made = [0.0], [0]

    def predict(inputs: Sequence[Input]) -> list[Answer]:
        now[0] += milliseconds / 1000
        made[0] += 1
        return []

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    found = interleaved({"x": predict}, [["a"]], 300, seconds=2.0)["x"]
    assert found["calls"] == calls
    assert found["p50_ms"] == pytest.approx(milliseconds)
    assert made[0] <= calls + WARM_UP and now[0] < 2 * max(2.0, LEAST_CALLS * milliseconds / 1000)


def at_work_in_blocks(monkeypatch: pytest.MonkeyPatch, slow: dict[int, float]) -> dict[str, float]:
    """Figures of 100 calls in 5 blocks, of 1 ms each; those of a block in `slow` take so many milliseconds more, in
    which the CPU is another's."""
    now, cpu, calls = [0.0], [0.0], [-10]  # so many of a warm-up

    def predict(inputs: Sequence[Input]) -> list[Answer]:
        more = slow.get(calls[0] // 20, 0.0) / 1000
        calls[0] += 1
        cpu[0] += 0.001
        now[0] += 0.001 + more
        return []

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr("time.process_time", lambda: cpu[0])
    return interleaved({"x": predict}, [["a"]], 100, blocks=BLOCKS)["x"]


def test_p95_is_that_of_the_quietest_block_and_the_others_stand_beside_it(monkeypatch: pytest.MonkeyPatch):
    found = at_work_in_blocks(monkeypatch, {0: 50.0, 1: 4.0, 3: 9.0, 4: 2.0})
    names = ("p50_ms", "p95_ms", "p95_ms_others_low", "p95_ms_others_high", "p99_ms")
    assert [found[each] for each in names] == pytest.approx([1, 1, 3, 51, 51])
    assert found["calls"] == 100
    assert found["busy"] == pytest.approx(1 - 100 / (100 + 20 * (50 + 4 + 9 + 2)))


def test_a_pause_of_the_model_in_every_block_is_in_its_p95(monkeypatch: pytest.MonkeyPatch):
    quiet = at_work_in_blocks(monkeypatch, {})
    assert quiet["busy"] == 0
    assert quiet["p95_ms_others_low"] == quiet["p95_ms_others_high"] == pytest.approx(1)
    slow = at_work_in_blocks(monkeypatch, dict.fromkeys(range(BLOCKS), 3.0))
    assert slow["p95_ms"] == pytest.approx(4)


@pytest.mark.parametrize("batches", [3, 50, 70])
def test_all_blocks_hold_the_same_batches(batches: int):
    """Else the quietest block would be the one of the cheapest rows, where what a call costs depends on its row."""
    calls: list[tuple[str, str]] = []
    interleaved({"x": recorder("x", calls)}, [[str(number)] for number in range(batches)], 300, blocks=BLOCKS)
    measured = [batch for _, batch in calls[WARM_UP:]]
    blocks = [measured[start : start + 60] for start in range(0, 300, 60)]
    assert blocks == [[str(index % batches) for index in range(60)]] * BLOCKS


def busy(at: str, share: float) -> Figures:
    return figures({"accuracy": 0.9}, {at: {"p95_ms": 9.0, "busy": share}})


def test_a_busy_machine_is_said_with_the_contender_that_it_kept_waiting_most():
    found = {"a": busy("mix", 0.04), "b": busy("batch1_tokens32", 0.051), "c": figures()}
    assert busy_words(found) == (
        "The machine was busy: b was kept from the CPU for 5% of the time that its calls took; "
        "latencies may be too high."
    )
    assert busy_words(found | {"b": busy("batch1_tokens32", 0.05)}) is None
    assert busy_words({}) is None


def test_energy_is_that_of_a_contenders_own_turns():
    spent = [0.0]

    def takes(joules: float) -> Predictor:
        def predict(inputs: Sequence[Input]) -> list[Answer]:
            spent[0] += joules
            return []

        return predict

    found = interleaved({"small": takes(0.25), "large": takes(3.0)}, [["a"]], 40, joules=lambda: spent[0])
    assert (found["small"]["joules"], found["large"]["joules"]) == (pytest.approx(0.25), pytest.approx(3.0))


@pytest.mark.parametrize("timed", [{}, {"p50_ms": 1.0}, {"busy": 0.0}, {"busy": BUSY}])
def test_of_no_share_or_a_small_one_nothing_is_said(timed: dict[str, float]):
    assert busy_words({"a": figures({}, {"mix": timed})}) is None
