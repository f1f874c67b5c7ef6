"""Latency, measured so that a noisy machine hurts all sides alike: rounds of calls, contenders in turn."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
from tokenizers import Tokenizer

from jobs.measure.contenders import Predictor
from serving.inputs import Input

ROUNDS = 10
WARM_UP = 20


def interleaved(
    predictors: Mapping[str, Predictor], batches: Sequence[Sequence[Input]], calls: int
) -> dict[str, dict[str, float]]:
    """{name: {p50_ms, p95_ms}} of one call on one of `batches`, over at least `calls` calls each.

    Every contender answers the same batches in the same order, some at a time, before the next has its turn.
    """
    seconds: dict[str, list[float]] = {name: [] for name in predictors}
    per_round = -(-calls // ROUNDS)
    for predict in predictors.values():
        for index in range(min(WARM_UP, per_round)):
            predict(batches[index % len(batches)])
    for turn in range(ROUNDS):
        for name, predict in predictors.items():
            for index in range(turn * per_round, (turn + 1) * per_round):
                started = time.perf_counter()
                predict(batches[index % len(batches)])
                seconds[name].append(time.perf_counter() - started)
    return {
        name: {"p50_ms": float(np.percentile(each, 50)) * 1e3, "p95_ms": float(np.percentile(each, 95)) * 1e3}
        for name, each in seconds.items()
    }


def texts_of_length(
    texts: Sequence[str], tokenizer: Tokenizer, tokens: int, count: int, pairs: bool = False
) -> list[Input]:
    """Up to `count` inputs of exactly `tokens` tokens, special ones included, cut from the user's own texts.

    Raises `ValueError` where no text cut so keeps its tokens.
    """
    special = tokenizer.num_special_tokens_to_add(pairs)
    room = tokens - special
    if room < 1 + pairs:
        raise ValueError(f"{tokens} tokens leave no room for a text beside {special} special tokens")
    found: list[Input] = []
    for start in range(len(texts)):
        words = " ".join(texts[(start + offset) % len(texts)] for offset in range(tokens))
        if pairs:
            first = _cut(words, tokenizer, room - room // 2)
            made: Input = (first, _cut(words[len(first) :].lstrip(), tokenizer, room // 2))
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


def _cut(text: str, tokenizer: Tokenizer, tokens: int) -> str:
    """The beginning of `text` that its first `tokens` tokens cover."""
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets
    return text[: offsets[min(tokens, len(offsets)) - 1][1]] if offsets else ""
