"""Decoders in service: texts for inputs, those of several requests at a time, whole or as they are written.

    {"inputs": [...], "max_tokens": 60, "stop": ["\\n"]}
    -> {"model": {"name", "version"}, "predictions": [{"text", "finish_reason"}, ...]}

With "stream": true server-sent events, {"index", "text"} for each piece, the last of each input with "finish_reason",
"usage" and "model". Without "temperature" the likeliest token is written, as in an evaluation.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

from pydantic import BaseModel, ConfigDict, Field

from configs.schema.serving import ServingSpec
from serving.generator import Generator, load_generator
from serving.inputs import Input
from serving.pieces import Text
from serving.questions import Question, read_question
from serving.rounds import FinishReason, QueueFull, Rounds, Writing
from serving.runtimes import Sampling
from serving.service import Answer, Caller, ClientLeft, Refused, Release, Route, Stream, event

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MOST_STOPS, LONGEST_STOP = 4, 64  # strings, characters


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
    def checked(self) -> dict[str, Any]:
        """What the checks say, in an answer."""
        said = {"held": self.held} | ({"reason": self.reason} if self.reason else {})
        return {} if self.held is None else said


class Manner(BaseModel):
    """How texts are to be written: the fields that bodies of several forms have in common."""

    model_config = ConfigDict(extra="forbid", strict=True)

    max_tokens: int | None = Field(default=None, ge=1, description="a whole number of at least 1")
    temperature: float = Field(default=0, ge=0, le=2, description="a number from 0 (the likeliest token) to 2")
    top_p: float = Field(default=1, gt=0, le=1, description="a number above 0, at most 1")
    top_k: int = Field(default=0, ge=0, description="a whole number of at least 0, which draws from all tokens")
    seed: int | None = Field(default=None, description="a whole number")
    stop: str | list[str] | None = Field(
        default=None, description=f"a text of 1 to {LONGEST_STOP} characters, or a list of at most {MOST_STOPS}"
    )
    stream: bool = Field(default=False, description="true or false")

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
        """Strings that end a text. Raises `Refused`."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(given) > MOST_STOPS or not all(1 <= len(each) <= LONGEST_STOP for each in given):
            raise Refused(422, f"stop must be {Manner.model_fields['stop'].description}", "stop")
        return given


class WriteQuestion(Manner, Question):
    """The body of a request."""


class Texts:
    """The texts of one request while they are written, seen from the event loop."""

    def __init__(
        self, prompts: Sequence[Sequence[int]], most: Sequence[int], manner: Manner, tokenizer: Tokenizer
    ) -> None:
        """`most`: tokens that each may have. Raises `Refused`."""
        sampling, stops = manner.sampling, manner.stops
        self._loop = asyncio.get_running_loop()
        self._came: asyncio.Queue[tuple[int, str, FinishReason | None] | Exception] = asyncio.Queue()
        self.writings = [
            Writing(ids, limit, sampling, Text(tokenizer, stops), partial(self._tell, index), self._put)
            for index, (ids, limit) in enumerate(zip(prompts, most, strict=True))
        ]

    def _tell(self, index: int, piece: str, reason: FinishReason | None) -> None:
        self._put((index, piece, reason))

    def _put(self, came: tuple[int, str, FinishReason | None] | Exception) -> None:
        """Called in the model's thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
            self._loop.call_soon_threadsafe(self._came.put_nowait, came)

    async def pieces(self, until: float) -> AsyncIterator[Written]:
        """Pieces as they come, in order within each text. Raises `TimeoutError` at the time `until`, and what the
        model raised."""
        left = len(self.writings)
        while left:
            async with asyncio.timeout_at(until):
                came = await self._came.get()
            if isinstance(came, Exception):
                raise came
            index, piece, reason = came
            left -= reason is not None
            yield Written(index, piece, reason, self.usage(index) if reason else None)

    def usage(self, index: int) -> Usage:
        """Tokens of one text so far."""
        writing = self.writings[index]
        return {"prompt_tokens": len(writing.prompt), "completion_tokens": len(writing.written)}

    async def whole(self, caller: Caller) -> list[Written]:
        """The texts, in order. Raises what `pieces` raises, and `ClientLeft`."""
        parts: list[list[Written]] = [[] for _ in self.writings]

        async def collect() -> None:
            async for each in self.pieces(caller.until):
                parts[each.index].append(each)

        done, gone = asyncio.ensure_future(collect()), asyncio.ensure_future(caller.left())
        try:
            await asyncio.wait({done, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not done.done():
                raise ClientLeft
            done.result()
        finally:
            done.cancel()
            gone.cancel()
            self.leave()
        return [replace(each[-1], text="".join(part.text for part in each)) for each in parts]

    def leave(self) -> None:
        """Have what is not finished given up: nobody waits for it any more."""
        for each in self.writings:
            each.left = True


class Writer:
    """See `serving.service.InService`."""

    def __init__(self, generator: Generator, release: Release, spec: ServingSpec) -> None:
        self.generator, self.release, self.spec = generator, release, spec
        self._rounds = Rounds(generator.writer, spec.max_batch_size, spec.round_tokens, spec.max_waiting_texts)

    @property
    def routes(self) -> Mapping[str, Route]:
        """The service itself."""
        return {"": self._answer}

    def running_s(self) -> float:
        """Seconds since the last token of the round at work."""
        return self._rounds.running_s()

    def begin(self, inputs: Sequence[Input], manner: Manner) -> Texts:
        """Have texts written; the caller ends with `leave`. Raises `InputError` and `Refused`."""
        limit = self.spec.max_tokens or self.generator.bundle.max_length
        if manner.max_tokens is not None and manner.max_tokens > limit:
            raise Refused(422, f"max_tokens must be at most {limit}, which this service writes", "max_tokens")
        prompts = self.generator.prompts(inputs)
        room = [self.generator.bundle.max_length - len(ids) for ids in prompts]
        most = [min(each, manner.max_tokens or limit) for each in room]
        texts = self._texts(inputs, prompts, most, manner, self.generator.tokenizer)
        try:
            self._rounds.add(texts.writings)
        except QueueFull:
            raise Refused(503, "too many texts wait already; ask again", retry=True) from None
        return texts

    def _texts(self, inputs: Sequence[Input], *of_texts: Any) -> Texts:
        if self.generator.checks is None:
            return Texts(*of_texts)
        from serving.checked import CheckedTexts

        return CheckedTexts(self.generator, self._rounds, self.generator.worded(inputs), *of_texts)

    async def _answer(self, body: bytes, caller: Caller) -> Answer:
        question = read_question(body, WriteQuestion, self.spec.max_inputs)
        texts = self.begin(question.inputs, question)
        if question.stream:
            return Stream(self._events(texts, caller.until), texts.leave)
        predictions = [
            {"text": each.text, "finish_reason": each.finish_reason} | each.checked
            for each in await texts.whole(caller)
        ]
        return {"model": self.release.model, "predictions": predictions}

    async def _events(self, texts: Texts, until: float) -> AsyncIterator[bytes]:
        async for each in texts.pieces(until):
            piece = {"index": each.index, "text": each.text}
            if each.finish_reason:
                piece |= {"finish_reason": each.finish_reason, "usage": each.usage, "model": self.release.model}
                piece |= each.checked
            yield event(piece)


def put_in_service(release: Release, spec: ServingSpec) -> Writer:
    """Load a decoder. Raises `BundleError`."""
    return Writer(load_generator(release.bundle, spec.threads), release, spec)
