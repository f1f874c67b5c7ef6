"""Texts of one request: how they are to be written, and what of them has come."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict  # see serving.forms

from serving.pieces import Text
from serving.rounds import FinishReason, Writing
from serving.runtimes import Sampling
from serving.service import Caller, Refused, unless_left

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MOST_STOPS, LONGEST_STOP = 4, 64  # strings, characters
Stop = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]


class Usage(TypedDict):
    """Tokens of one text."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Written:
    """A piece of a text, the last one with its reason and usage."""

    index: int
    text: str
    finish_reason: FinishReason | None
    usage: Usage | None
    held: bool | None = None  # of the last piece of a text that was checked: whether it is held back, and then
    reason: str | None = None  # why

    @property
    def said_reason(self) -> str | None:
        """Why the text ends, in OpenAI's words."""
        return "content_filter" if self.held else self.finish_reason

    @property
    def checked(self) -> dict[str, Any]:
        """What the checks say, in an answer."""
        said = {"held": self.held} | ({"reason": self.reason} if self.reason else {})
        return {} if self.held is None else said


class Manner(BaseModel):
    """How texts are to be written: the fields that bodies of several forms have in common."""

    model_config = ConfigDict(extra="forbid", strict=True)

    max_tokens: int | None = Field(
        default=None,
        ge=1,
        description="a whole number of at least 1",
        json_schema_extra={"description": "most tokens of a text; without it as many as the model holds"},
    )
    temperature: float = Field(default=0, ge=0, le=2, description="a number from 0 (the likeliest token) to 2")
    top_p: float = Field(
        default=1,
        gt=0,
        le=1,
        description="a number above 0, at most 1",
        json_schema_extra={"description": "tokens are drawn from the likeliest that have this probability together"},
    )
    top_k: int = Field(
        default=0,
        ge=0,
        description="a whole number of at least 0, which draws from all tokens",
        json_schema_extra={"description": "tokens are drawn from so many of the likeliest; 0 = from all"},
    )
    seed: int | None = Field(
        default=None,
        description="a whole number",
        json_schema_extra={"description": "taken where temperature is 0, which writes the same text whatever it is"},
    )
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = Field(
        default=None,
        description=f"a text of 1 to {LONGEST_STOP} characters, or a list of at most {MOST_STOPS}",
        json_schema_extra={"description": "texts that end the answer and do not belong to it"},
    )
    stream: bool = Field(
        default=False,
        description="true or false",
        json_schema_extra={"description": "true sends the text as it is written, as server-sent events"},
    )

    @property
    def sampling(self) -> Sampling:
        """How tokens are chosen. Raises `Refused`."""
        if not self.temperature:
            return Sampling()
        if self.seed is not None:
            raise Refused(
                422,
                "seed: this model's runtime draws all its texts with one generator, so a seed would not give the same "
                "text again; leave it out, or set temperature to 0, which always writes the likeliest text",
                "seed",
            )
        return Sampling(self.temperature, self.top_k, self.top_p)

    @property
    def stops(self) -> list[str]:
        """Strings that end a text."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class Texts:
    """The texts of one request while they are written, seen from the event loop."""

    def __init__(
        self, prompts: Sequence[Sequence[int]], most: Sequence[int], manner: Manner, tokenizer: Tokenizer
    ) -> None:
        """`most`: tokens that each may have. Raises `Refused`."""
        sampling, stops = manner.sampling, manner.stops
        self._loop = asyncio.get_running_loop()
        self._streams = manner.stream
        self._lock, self._woken, self._news = threading.Lock(), False, asyncio.Event()
        self._came: dict[int, tuple[str, FinishReason | None]] = {}  # and was not taken yet, in the order of its coming
        self._error: Exception | None = None
        self.writings = [
            Writing(ids, limit, sampling, Text(tokenizer, stops), partial(self._tell, index), self._fail)
            for index, (ids, limit) in enumerate(zip(prompts, most, strict=True))
        ]

    def _tell(self, index: int, piece: str, reason: FinishReason | None) -> None:
        """Called in the model's thread. What comes before it is taken is one piece: a loop that has much to do is woken
        less often."""
        with self._lock:
            before, _ = self._came.get(index, ("", None))
            self._came[index] = (before + piece, reason)
        if self._streams or reason:
            self._wake()

    def _fail(self, error: Exception) -> None:
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
                self._loop.call_soon_threadsafe(self._news.set)

    def _take(self) -> dict[int, tuple[str, FinishReason | None]]:
        """What has come since; of texts that are not streamed, those that are whole."""
        self._news.clear()
        self._woken = False  # before it is taken: what comes later wakes once more
        with self._lock:
            took = {index: came for index, came in self._came.items() if self._streams or came[1]}
            self._came = {index: came for index, came in self._came.items() if index not in took}
        return took

    async def pieces(self, until: float) -> AsyncIterator[Written]:
        """Pieces as they come, in order within each text. Raises `TimeoutError` at the time `until`, and what the
        model raised."""
        left = len(self.writings)
        while left:
            async with asyncio.timeout_at(until):
                await self._news.wait()
            for index, (piece, reason) in self._take().items():
                left -= reason is not None
                yield Written(index, piece, reason, self.usage(index) if reason else None)
            if self._error:
                raise self._error

    def usage(self, index: int) -> Usage:
        """Tokens of one text so far."""
        writing = self.writings[index]
        return {"prompt_tokens": len(writing.prompt), "completion_tokens": len(writing.written)}

    async def whole(self, caller: Caller) -> list[Written]:
        """The texts, in order, which were not asked for as a stream. Raises what `pieces` raises, and `ClientLeft`."""

        async def collect() -> list[Written]:
            return [each async for each in self.pieces(caller.until)]

        try:
            came = await unless_left(collect(), caller)
        finally:
            self.leave()
        return sorted(came, key=lambda each: each.index)

    def leave(self) -> None:
        """Have what is not finished given up: nobody waits for it any more."""
        for each in self.writings:
            each.left = True
