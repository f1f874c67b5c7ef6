"""Latency, measured so that a noisy machine hurts all sides alike, and says so: rounds of calls, contenders in turn."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from jobs.measure.answers import Predictor
from serving.inputs import Input, Row
from tuning.figures import Figures
from tuning.pareto import BUSY

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ROUNDS = 10
BLOCKS = 5  # that limits of time are judged by; so many rounds each that all rounds are used
WARM_UP = 20
LEAST_CALLS = 20
PERCENTILES = (50, 95, 99)
SIGNS = (".", "!", " .", " a", "1")  # of which hardly a tokenizer makes no token, or more than one


def interleaved(
    predictors: Mapping[str, Predictor],
    batches: Sequence[Sequence[Input]] | Mapping[str, Sequence[Sequence[Input]]],
    calls: int,
    seconds: float = math.inf,
    joules: Callable[[], float] | None = None,
    blocks: int = 1,
) -> dict[str, dict[str, float]]:
    """{name: {p50_ms, p95_ms, p99_ms, mean_ms, calls, busy}} of one call on one of `batches`, of `calls` calls or more.

    Every contender answers the batches, which are the same for all or given by name, in the same order, some at a time,
    before the next has its turn. One that would need more than `seconds` is called less often, but `LEAST_CALLS` times;
    its p99 is then near its slowest call. With a meter of `joules` also `joules`, per call. `busy` is the share of its
    turns that it was kept from the CPU.

    With several `blocks` of rounds, p50 and p95 are those of the block with the least p95, as a neighbour can only add;
    `p95_ms_others_low` and `p95_ms_others_high` say what p95 was in the others. All blocks hold the same batches, so
    that no block is quicker by what it was asked. p99 and the mean stay those of all calls; p99 shows pauses of the
    model's own.
    """
    asked = batches if isinstance(batches, Mapping) else dict.fromkeys(predictors, batches)
    taken: dict[str, list[list[float]]] = {name: [[] for _ in range(blocks)] for name in predictors}
    wall, cpu, used = (dict.fromkeys(predictors, 0.0) for _ in range(3))
    per_round = {name: _warm_up(predict, asked[name], calls, seconds) for name, predict in predictors.items()}
    for turn in range(ROUNDS):
        block, place = divmod(turn, ROUNDS // blocks)
        for name, predict in predictors.items():
            inputs, times = asked[name], taken[name][block]
            before = joules() if joules else 0.0
            began, began_cpu = time.perf_counter(), time.process_time()
            for index in range(place * per_round[name], (place + 1) * per_round[name]):
                started = time.perf_counter()
                predict(inputs[index % len(inputs)])
                times.append(time.perf_counter() - started)
            cpu[name] += time.process_time() - began_cpu
            wall[name] += time.perf_counter() - began
            used[name] += joules() - before if joules else 0.0
    found = {name: _figures(times) | {"busy": max(0.0, 1 - cpu[name] / wall[name])} for name, times in taken.items()}
    if joules:
        for name, figures in found.items():
            figures["joules"] = used[name] / figures["calls"]
    return found


def _figures(blocks: Sequence[Sequence[float]]) -> dict[str, float]:
    """Percentiles and mean of a contender's calls; `blocks` are the seconds of its calls, block by block."""
    import numpy as np

    quietest, *others = sorted(blocks, key=lambda times: np.percentile(times, 95))
    every = [seconds for times in blocks for seconds in times]
    most = PERCENTILES[-1]
    found = {f"p{each}_ms": float(np.percentile(quietest, each)) * 1e3 for each in PERCENTILES if each != most}
    found |= {f"p{most}_ms": float(np.percentile(every, most)) * 1e3, "calls": len(every)}
    found["mean_ms"] = float(np.mean(every)) * 1e3
    for end, times in (("low", others[0]), ("high", others[-1])) if others else ():
        found[f"p95_ms_others_{end}"] = float(np.percentile(times, 95)) * 1e3
    return found


def busy_words(figures: Mapping[str, Figures]) -> str | None:
    """A sentence about the contender that was most kept from the CPU at a shape; None where none was by over `BUSY`."""
    shares = [(each.get("busy", 0.0), name) for name, found in figures.items() for each in found["latency"].values()]
    share, name = max(shares, default=(0.0, ""))
    if share <= BUSY:
        return None
    words = f"The machine was busy: {name} was kept from the CPU for {share:.0%} of the time that its calls took"
    return f"{words}; latencies may be too high."


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

    Where no text cut so keeps its tokens, as where each character is three of them, signs fill the rest. Raises
    `ValueError` where none does.
    """
    special = tokenizer.num_special_tokens_to_add(pairs)
    room = tokens - special
    if room < 1 + pairs:
        raise ValueError(f"{tokens} tokens leave no room for a text beside {special} special tokens")
    found: list[Row] = []
    for cut in (_cut, _filled):
        for start in range(len(texts)):
            words = _strung(texts, start, tokenizer, tokens)
            if pairs:
                first = cut(words, tokenizer, room - room // 2)
                made: Row = (first, cut(words[len(first) :].lstrip(), tokenizer, room // 2))
                length = len(tokenizer.encode(*made))
            else:
                made = cut(words, tokenizer, room)
                length = len(tokenizer.encode(made))
            if length == tokens:
                found.append(made)
            if len(found) == count:
                break
        if found:
            return found
    raise ValueError(f"no text could be cut to {tokens} tokens")


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


def _filled(text: str, tokenizer: Tokenizer, tokens: int) -> str:
    """The longest beginning of `text` that has at most so many tokens, and signs that are a token each after it."""
    made, length = "", 0
    for count in range(tokens, 0, -1):
        made = _cut(text, tokenizer, count)
        length = _length(made, tokenizer)
        if length <= tokens:
            break
    while made and length < tokens:
        one = next((made + sign for sign in SIGNS if _length(made + sign, tokenizer) == length + 1), None)
        if one is None:
            break
        made, length = one, length + 1
    return made


def _length(text: str, tokenizer: Tokenizer) -> int:
    return len(tokenizer.encode(text, add_special_tokens=False))
