"""A client that asks so many times a second, whether answers come or not, in a process of its own.

    python -m benchmarks._load '{"url": ..., "inputs": [...], "rate": 50, "seconds": 60, "retries": 1}'

prints one JSON object, a `Load`, after so many seconds or SIGTERM. Latencies count from when a request was due, so that
a client which is kept waiting does not ask less (coordinated omission, G. Tene).
"""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

import aiohttp
import numpy as np
import psutil

from configs.loader import Spec

UNANSWERED = "no answer"
OK, TO_RETRY = 200, 500  # and above
PATIENCE_S = 60.0


class Question(Spec):
    """What is asked, and how often."""

    url: str
    inputs: list[str]
    rate: float  # requests a second
    seconds: float
    retries: int = 0  # of a connection that ends, and of 5xx
    certificate: str | None = None  # of the server, where it has one


class Load(Spec):
    """What came of it."""

    statuses: dict[str, int]  # of the last try of each request; UNANSWERED where the connection ended
    p50_ms: dict[str, float]  # by status
    p99_ms: dict[str, float]
    retried: int

    @property
    def requests(self) -> int:
        """How many were asked."""
        return sum(self.statuses.values())

    @property
    def good(self) -> int:
        """How many were answered."""
        return self.statuses.get(str(OK), 0)


class Running(NamedTuple):
    """A client at work."""

    process: psutil.Popen

    def stop(self) -> Load:
        """Ask no more; what came of it."""
        self.process.terminate()
        return self.result()

    def result(self) -> Load:
        """What came of it, once it has ended. Raises `RuntimeError` where it failed."""
        said, _ = self.process.communicate()
        if self.process.returncode:
            raise RuntimeError("the client failed")
        return Load.model_validate_json(said)


@contextmanager
def asking(question: Question) -> Iterator[Running]:
    """A client in a process of its own, which ends before this does."""
    command = [sys.executable, "-m", "benchmarks._load", question.model_dump_json()]
    process = psutil.Popen(command, stdout=-1, start_new_session=True)
    try:
        yield Running(process)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def load(question: Question) -> Load:
    """What comes of a client that nothing disturbs."""
    with asking(question) as client:
        return client.result()


async def _ask_all(question: Question) -> Load:
    statuses: Counter[str] = Counter()
    latencies: defaultdict[str, list[float]] = defaultdict(list)
    retried = 0
    trusted = ssl.create_default_context(cafile=question.certificate) if question.certificate else None
    connector = aiohttp.TCPConnector(limit=0, ssl=trusted or True)
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def ask(due: float) -> None:
            nonlocal retried
            status = await _status(session, question)
            for _ in range(question.retries):
                if status == UNANSWERED or int(status) >= TO_RETRY:
                    retried += 1
                    status = await _status(session, question)
            statuses[status] += 1
            latencies[status].append(1e3 * (time.perf_counter() - due))

        over = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
        began = time.perf_counter()
        tasks: list[asyncio.Task[None]] = []
        for number in range(int(question.rate * question.seconds)):
            due = began + number / question.rate
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), max(0.0, due - time.perf_counter()))
            if over.is_set():
                break
            tasks.append(asyncio.create_task(ask(due)))
        await asyncio.gather(*tasks)
    return Load(statuses=statuses, p50_ms=_at(50, latencies), p99_ms=_at(99, latencies), retried=retried)


async def _status(session: aiohttp.ClientSession, question: Question) -> str:
    try:
        async with session.post(question.url, json={"inputs": question.inputs}) as answer:
            await answer.read()
            return str(answer.status)
    except (aiohttp.ClientError, TimeoutError, OSError):
        return UNANSWERED


def _at(percent: float, latencies: Mapping[str, list[float]]) -> dict[str, float]:
    return {status: round(float(np.percentile(each, percent)), 2) for status, each in latencies.items()}


def main(arguments: Sequence[str]) -> int:
    """The client's process."""
    found = asyncio.run(_ask_all(Question.model_validate(json.loads(arguments[0]))))
    print(found.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
