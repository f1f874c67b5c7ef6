"""Texts of several requests, written in rounds by one model.

A runtime that writes a batch to its end would let a short text wait for the long ones before it. So a round ends for
all its texts once it has written some tokens and somebody waits; what is not finished goes on in a later round, from
its prompt and what was written. A text that nobody waits for any more gives up its place at its next token.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from serving.inputs import TOKENS_PER_BATCH
from serving.metrics import UNMETERED, Meter
from serving.pieces import Text
from serving.runtimes import Sampling, WriterModel

Result = TypeVar("Result")
FinishReason = Literal["stop", "length"]
SPREAD = 16  # tokens by which prompts of a round may differ: a runtime reads the rest of longer ones token by token


class QueueFull(Exception):
    """As many texts wait as may wait."""


@dataclass(eq=False)
class Writing:
    """One text, from its prompt on."""

    prompt: Sequence[int]
    most: int  # tokens
    sampling: Sampling
    text: Text
    tell: Callable[[str, FinishReason | None], None]  # the next piece, and why it is the last one
    fail: Callable[[Exception], None] = lambda _: None  # called in place of `tell` where the model fails
    left: bool = False  # nobody waits for it any more
    written: list[int] = field(default_factory=list)
    finished: bool = False

    @property
    def ids(self) -> list[int]:
        """All that the model has read or written of it."""
        return [*self.prompt, *self.written]

    def take(self, token: int | None) -> bool:
        """Add a token, or None where the model ends the text; returns whether the text needs no more."""
        if self.left:
            return True
        if token is None:
            self._finish(self.text.end(), "stop")
            return True
        self.written.append(token)
        piece = self.text.add(token)
        if self.text.stopped:
            self._finish(piece, "stop")
        elif len(self.written) >= self.most:
            piece += self.text.end()
            self._finish(piece, "stop" if self.text.stopped else "length")
        elif piece:
            self.tell(piece, None)
        return self.finished

    def _finish(self, piece: str, reason: FinishReason) -> None:
        self.finished = True
        self.tell(piece, reason)


class Rounds:
    """The one thread in which a model writes."""

    def __init__(self, model: WriterModel, largest: int, tokens: int, queue: int, meter: Meter = UNMETERED) -> None:
        """A round has `largest` texts, and `tokens` tokens of each where others wait; `queue` texts may wait."""
        self._model, self._largest, self._tokens, self._queue = model, largest, tokens, queue
        self._meter = meter
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writing")
        self._lock = threading.Lock()
        self._waiting: deque[Writing] = deque()
        self._asked: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._runs = False
        self._seen: float | None = None  # time of the last token, or of the beginning of the round

    def add(self, writings: Sequence[Writing]) -> None:
        """Have texts written after those that wait already. Raises `QueueFull`, and then none of them is."""
        with self._lock:
            self._waiting = deque(each for each in self._waiting if not each.left)
            if len(self._waiting) + len(writings) > self._queue:
                raise QueueFull
            self._waiting.extend(writings)
            starts, self._runs = not self._runs, True
        self._meter.tokens("prompt", sum(len(each.prompt) for each in writings))
        if starts:
            self._thread.submit(self._run)

    def ask(self, task: Callable[[], Result]) -> Future[Result]:
        """Have something else done with the model, before its next round."""
        future: Future[Any] = Future()
        with self._lock:
            self._asked.append((task, future))
            starts, self._runs = not self._runs, True
        if starts:
            self._thread.submit(self._run)
        return future

    def running_s(self) -> float:
        """Seconds since the round at work wrote its last token; 0 while there is none."""
        seen = self._seen
        return 0.0 if seen is None else time.monotonic() - seen

    def _run(self) -> None:
        """Write rounds until nobody waits."""
        while (writings := self._cut()) is not None:
            self._do_asked()
            self._seen = time.monotonic()
            try:
                if writings:
                    self._write(writings)
            except Exception as error:  # noqa: BLE001 - who waits for the texts raises it
                for each in writings:
                    if not each.finished:
                        each.fail(error)
            else:
                with self._lock:
                    self._waiting.extend(each for each in writings if not each.finished and not each.left)
            finally:
                self._seen = None

    def _do_asked(self) -> None:
        """What was asked of the model beside the rounds."""
        while True:
            with self._lock:
                if not self._asked:
                    return
                task, future = self._asked.popleft()
            self._seen = time.monotonic()
            try:
                future.set_result(task())
            except Exception as error:  # noqa: BLE001 - who waits for it raises it
                future.set_exception(error)
            finally:
                self._seen = None

    def _write(self, writings: Sequence[Writing]) -> None:
        """One round."""
        counts = [0] * len(writings)

        def step(row: int, token: int | None) -> bool:
            self._seen = time.monotonic()
            counts[row] += 1
            return writings[row].take(token) or (counts[row] >= self._tokens and bool(self._waiting))

        most = max(each.most - len(each.written) for each in writings)
        began = time.monotonic()
        self._model.write([each.ids for each in writings], most, writings[0].sampling, step)
        self._meter.batch(len(writings), time.monotonic() - began, len(self._waiting))
        self._meter.tokens("completion", sum(counts))

    def _cut(self) -> list[Writing] | None:
        """The next round: the text that waits longest, and others of its sampling and about its length.

        Empty where nothing but `ask` is to be done, None where nothing is.
        """
        with self._lock:
            chosen: list[Writing] = []
            rest: deque[Writing] = deque()
            longest = 0
            for each in self._waiting:
                size = len(each.prompt) + len(each.written)
                if each.left:
                    continue
                fits = not chosen or (
                    len(chosen) < self._largest
                    and each.sampling == chosen[0].sampling
                    and abs(size - len(chosen[0].prompt) - len(chosen[0].written)) <= SPREAD
                    and (len(chosen) + 1) * max(longest, size) <= TOKENS_PER_BATCH
                )
                (chosen if fits else rest).append(each)
                longest = max(longest, size) if fits else longest
            self._waiting = rest
            self._runs = bool(chosen or self._asked)
            return chosen if self._runs else None
