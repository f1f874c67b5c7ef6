"""Requests that are answered together: those that came while the thread was at work make the next batch."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")
SHORT_S = 0.003  # time for which the event loop may stand still, rather than hop to the thread and back


class Batches(Generic[Item, Answer]):
    """One thread that works on batches of one event loop; a single short item is worked on in the loop itself.

    Serve's own batching cuts a batch as soon as its wait is over, even while the last batch still runs, and so makes
    batches of one under load.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], Sequence[Answer]],
        size: Callable[[Item], int],
        largest: int,
        wait_s: float = 0,
        told: Callable[[int, float, int], None] = lambda *_: None,
    ) -> None:
        """`work` answers each item of a batch in turn; a batch's sizes add up to `largest`, unless it is one item.

        A batch begins `wait_s` seconds after its first item came, at the earliest. `told` is called after each: its
        size, its seconds, and how much waits.
        """
        self._told = told
        self._work, self._size, self._largest, self._wait_s = work, size, largest, wait_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._began: float | None = None
        self._single_s = math.inf  # duration of the last batch of size 1

    async def answer(self, item: Item) -> Answer:
        """The answer of `work` to the item; an error of `work` is raised for the whole batch."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._worker is None:
            self._worker = asyncio.create_task(self._run())
        return await future

    def running_s(self) -> float:
        """Seconds since the batch at work began; 0 while there is none."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    async def _run(self) -> None:
        """Work on batches until nobody waits."""
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                if self._wait_s:
                    await asyncio.sleep(self._wait_s)
                batch = self._cut()
                if not batch:
                    continue
                items = [item for item, _ in batch]
                size = sum(map(self._size, items))
                single = size == 1
                self._began = began = time.monotonic()
                try:
                    if single and self._single_s < SHORT_S:
                        answers = self._work(items)
                    else:
                        answers = await loop.run_in_executor(self._thread, self._work, items)
                except Exception as error:  # noqa: BLE001 - the callers raise it
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(error)
                else:
                    for (_, future), answer in zip(batch, answers, strict=True):
                        if not future.done():
                            future.set_result(answer)
                finally:
                    self._began = None
                    took = time.monotonic() - began
                    if single:
                        self._single_s = took
                    self._told(size, took, sum(self._size(item) for item, _ in self._waiting))
        finally:
            self._worker = None

    def _cut(self) -> list[tuple[Item, asyncio.Future[Answer]]]:
        """The next batch, without items whose caller has given up."""
        batch: list[tuple[Item, asyncio.Future[Answer]]] = []
        size = 0
        while self._waiting:
            item, future = self._waiting[0]
            if not future.done():
                size += self._size(item)
                if batch and size > self._largest:
                    break
                batch.append((item, future))
            self._waiting.popleft()
        return batch
