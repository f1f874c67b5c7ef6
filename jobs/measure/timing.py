"""Latency, measured so that a noisy machine hurts all sides alike: rounds of calls, contenders in turn."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from jobs.measure.contenders import Predictor
from serving.inputs import Input, Row

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ROUNDS = 10
WARM_UP = 20
LEAST_CALLS = 20
PERCENTILES = (50, 95, 99)


def interleaved(
    predictors: Mapping[str, Predictor],
    batches: Sequence[Sequence[Input]],
    calls: int,
    seconds: float = math.inf,
    joules: Callable[[], float] | None = None,
) -> dict[str, dict[str, float]]:
    """{name: {p50_ms, p95_ms, p99_ms, calls}} of one call on one of `batches`, over at least `calls` calls each.

    Every contender answers the batches in the same order, some at a time, before the next has its turn. One that
    would need more than `seconds` is called less often, but `LEAST_CALLS` times; its p99 is then near its slowest call.
    With a meter of `joules` also `joules`, per call.
    """
    import numpy as np

    taken: dict[str, list[float]] = {name: [] for name in predictors}
    used = dict.fromkeys(predictors, 0.0)
    per_round = {name: _warm_up(predict, batches, calls, seconds) for name, predict in predictors.items()}
    for turn in range(ROUNDS):
        for name, predict in predictors.items():
            before = joules() if joules else 0.0
            for index in range(turn * per_round[name], (turn + 1) * per_round[name]):
                started = time.perf_counter()
                predict(batches[index % len(batches)])
                taken[name].append(time.perf_counter() - started)
            used[name] += joules() - before if joules else 0.0
    return {
        name: {f"p{each}_ms": float(np.percentile(times, each)) * 1e3 for each in PERCENTILES}
        | {"calls": len(times)}
        | ({"joules": used[name] / len(times)} if joules else {})
        for name, times in taken.items()
    }


def _warm_up(predict: Predictor, batches: Sequence[Sequence[Input]], calls: int, seconds: float) -> int:
    """Call some times unmeasured; returns the calls that a round may have."""
    most, least = -(-calls // ROUNDS), -(-min(calls, LEAST_CALLS) // ROUNDS)
    fastest, ends = math.inf, time.perf_counter() + seconds / ROUNDS
    for index in range(min(WARM_UP, most)):
        started = time.perf_counter()
        predict(batches[index % len(batches)])
        fastest = min(fastest, time.perf_counter() - started)
        if time.perf_counter() > ends:
            break
    affordable = seconds / ROUNDS / fastest if fastest else math.inf
    return most if affordable >= most else max(least, int(affordable))


def texts_of_length(
    texts: Sequence[str], tokenizer: Tokenizer, tokens: int, count: int, pairs: bool = False
) -> list[Row]:
    """Up to `count` inputs of exactly `tokens` tokens, special ones included, cut from the user's own texts.

    Raises `ValueError` where no text cut so keeps its tokens.
    """
    special = tokenizer.num_special_tokens_to_add(pairs)
    room = tokens - special
    if room < 1 + pairs:
        raise ValueError(f"{tokens} tokens leave no room for a text beside {special} special tokens")
    found: list[Row] = []
    for start in range(len(texts)):
        words = _strung(texts, start, tokenizer, tokens)
        if pairs:
            first = _cut(words, tokenizer, room - room // 2)
            made: Row = (first, _cut(words[len(first) :].lstrip(), tokenizer, room // 2))
            length = len(tokenizer.encode(*made))
        else:
            made = _cut(words, tokenizer, room)
            length = len(tokenizer.encode(made))
        if length == tokens:
            found.append(made)
        if len(found) == count:
            break
    if not found:
        raise ValueError(f"no text could be cut to {tokens} tokens")
    return found


def _strung(texts: Sequence[str], start: int, tokenizer: Tokenizer, tokens: int) -> str:
    """As many texts from `start` on as hold `tokens` tokens, and at most so many; the first comes after the last.

    Twice the tokens: where the texts end, the last ones may be others than if more followed.
    """
    count = 1
    while True:
        words = " ".join(texts[(start + offset) % len(texts)] for offset in range(count))
        if count == tokens or len(tokenizer.encode(words, add_special_tokens=False)) >= 2 * tokens:
            return words
        count = min(2 * count, tokens)


def _cut(text: str, tokenizer: Tokenizer, tokens: int) -> str:
    """The beginning of `text` that its first `tokens` tokens cover."""
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets
    return text[: offsets[min(tokens, len(offsets)) - 1][1]] if offsets else ""
