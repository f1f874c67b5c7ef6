"""Clients of a service that writes: each reads server-sent events, one text after another."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

import aiohttp

EVENT = b"data: "


class Read(NamedTuple):
    """What some clients read together."""

    tokens_per_second: float
    first_token_ms: float  # until a client's first piece came, median of all texts


def read(url: str, prompts: Sequence[str], clients: int, max_tokens: int) -> Read:
    """So many clients share out the prompts, and each streams its own one after another. Raises `RuntimeError`."""
    return asyncio.run(_read(url, prompts, clients, max_tokens))


async def _read(url: str, prompts: Sequence[str], clients: int, max_tokens: int) -> Read:
    firsts: list[float] = []
    async with aiohttp.ClientSession() as session:
        started = time.perf_counter()
        written = await asyncio.gather(
            *(_client(session, url, prompts[number::clients], max_tokens, firsts) for number in range(clients))
        )
        seconds = time.perf_counter() - started
    return Read(sum(written) / seconds, 1e3 * statistics.median(firsts))


async def _client(
    session: aiohttp.ClientSession, url: str, prompts: Sequence[str], max_tokens: int, firsts: list[float]
) -> int:
    """Tokens that were written for all prompts."""
    tokens = 0
    for prompt in prompts:
        asked = {"inputs": [prompt], "stream": True, "max_tokens": max_tokens}
        started, last = time.perf_counter(), None
        async with session.post(url, json=asked) as answer:
            async for line in answer.content:
                if line.startswith(EVENT):
                    if last is None:
                        firsts.append(time.perf_counter() - started)
                    last = json.loads(line.removeprefix(EVENT))
        if not last or "usage" not in last:
            raise RuntimeError(f"{url}: a stream has no end: {last}")
        tokens += last["usage"]["completion_tokens"]
    return tokens
