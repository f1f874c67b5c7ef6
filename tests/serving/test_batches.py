from __future__ import annotations

import asyncio
import threading

import pytest

from serving.batches import Batches


class Work:
    """Answers numbers with themselves, once it may; notes the batches."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.seen: list[list[int]] = []

    def __call__(self, batch: list[int]) -> list[int]:
        self.seen.append(batch)
        self.begun.set()
        assert self.go_on.wait(10)
        if 13 in batch:
            raise ValueError("13")
        return batch


async def behind(work: Work, batches: Batches[int, int], first: int, *rest: int) -> list[asyncio.Task[int]]:
    """Tasks that ask, those of `rest` while the thread is at work on `first`."""
    tasks = [asyncio.create_task(batches.answer(first))]
    await asyncio.to_thread(work.begun.wait, 10)
    for item in rest:
        tasks.append(asyncio.create_task(batches.answer(item)))
        await asyncio.sleep(0)
    return tasks


def test_sizes_add_up_to_the_largest_batch_and_what_is_larger_comes_alone():
    work = Work()

    async def ask() -> list[int]:
        tasks = await behind(work, Batches(work, lambda item: item, 10), 1, 4, 6, 1, 50, 2)
        work.go_on.set()
        return await asyncio.gather(*tasks)

    assert asyncio.run(ask()) == [1, 4, 6, 1, 50, 2]
    assert work.seen == [[1], [4, 6], [1], [50], [2]]


def test_what_fails_fails_for_its_batch_alone():
    work = Work()

    async def ask() -> list[int | BaseException]:
        tasks = await behind(work, Batches(work, lambda item: item, 20), 1, 13, 2, 19)
        work.go_on.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, thirteen, two, last = asyncio.run(ask())
    assert (first, last) == (1, 19)
    assert isinstance(thirteen, ValueError) and isinstance(two, ValueError)


def test_who_has_given_up_is_not_worked_for():
    work = Work()

    async def ask() -> list[int]:
        batches = Batches(work, lambda item: 1, 10)
        first, second, third = await behind(work, batches, 1, 2, 3)
        second.cancel()
        await asyncio.sleep(0)
        assert batches.running_s() > 0
        work.go_on.set()
        found = [await first, await third]
        with pytest.raises(asyncio.CancelledError):
            await second
        await asyncio.sleep(0)
        assert batches.running_s() == 0
        return found

    assert asyncio.run(ask()) == [1, 3]
    assert work.seen == [[1], [3]]
