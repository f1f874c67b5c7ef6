"""Decoders in service: texts for inputs, those of several requests at a time, whole or as they are written.

    {"inputs": [...], "max_tokens": 60, "stop": ["\\n"]}
    -> {"model": {"name", "version"}, "predictions": [{"text", "finish_reason"}, ...]}

With "stream": true server-sent events, {"index", "text"} for each piece, the last of each input with "finish_reason",
"usage" and "model". With "details": true also "unknown", the share of the prompt's tokens that the tokenizer does not
know, "cut", which is false as a longer prompt is refused, and "ms" until all texts were whole, or the one of a stream.
Without "temperature" the likeliest token is written, as in an evaluation. `serving.openai` has further routes.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Annotated, Any, NotRequired

from pydantic import Field

from configs.schema.serving import ServingSpec
from serving import openai, openai_schema
from serving.checked import CheckedTexts
from serving.classifier import Details
from serving.conversation import Said
from serving.forms import Entry, Form, Schema, answer_of, example_of, inputs_of, schema_of
from serving.generator import Generator, load_generator
from serving.inputs import Input, Slots
from serving.manner import FIELDS, asked_manner
from serving.metrics import UNMETERED, Meter
from serving.questions import DETAILED, Question, read_question
from serving.rounds import FinishReason, QueueFull, Rounds
from serving.service import Answer, Caller, Refused, Release, Route, Stream, event, full
from serving.texts import Manner, Texts

DetailsOf = Callable[[int], dict[str, Any]]  # of the text of an input that is written, by its index


class WriteQuestion(Manner, Question):
    """The body of a request."""

    details: bool = Field(default=False, description="true or false", json_schema_extra=DETAILED)
    style: str | None = Field(
        default=None, description="a text", json_schema_extra={"description": "a style that rows taught"}
    )
    length: str | None = Field(
        default=None, description="a text", json_schema_extra={"description": "a length that rows taught"}
    )


class WrittenText(Details):
    """The text that was written for an input."""

    text: Annotated[str, Field(description="empty where it is held back")]
    finish_reason: Annotated[FinishReason, Field(description="what ended the text")]
    held: NotRequired[Annotated[bool, Field(description="of a checked service: whether the text is held back")]]
    reason: NotRequired[Annotated[str, Field(description="why it is held back")]]


EVENTS = (
    'Server-sent events, their data `{"index", "text"}`: a piece of the text of that input. Its last one also has '
    "`finish_reason`, `usage` (tokens), `model` and details. A stream that fails ends with an event `error` that "
    "holds a problem."
)


def forms(entry: Entry) -> dict[str, Form]:
    """The form of the service itself, and OpenAI's."""
    taught = entry.manner or {}
    manner = {name: {"enum": [*taught[name], None]} if name in taught else None for name in FIELDS}
    limit: Schema = {"maximum": entry.limits.max_tokens} if entry.limits.max_tokens else {}
    body = schema_of(WriteQuestion, inputs=inputs_of(entry), max_tokens=limit, **manner)
    checked = {} if entry.checked else {"held": None, "reason": None}
    answer = answer_of(schema_of(WrittenText, **checked))
    asked = {"inputs": [example_of(entry)], "max_tokens": min(20, entry.limits.max_tokens or 20)}
    return {"": Form("Write texts", body, answer, asked, EVENTS), **openai_schema.forms([entry.service], entry)}


class Writer:
    """See `serving.service.InService`."""

    def __init__(
        self, generator: Generator, service: str, release: Release, spec: ServingSpec, meter: Meter = UNMETERED
    ) -> None:
        self.generator, self.service, self.release, self.spec = generator, service, release, spec
        self._meter = meter
        self._rounds = Rounds(generator.writer, spec.max_batch_size, spec.round_tokens, spec.max_waiting_texts, meter)
        self._routes = {"": self._answer, **openai.routes(self, spec.max_inputs)}

    @property
    def routes(self) -> Mapping[str, Route]:
        """The service itself, and OpenAI's."""
        return self._routes

    def running_s(self) -> float:
        """Seconds since the last token of the round at work."""
        return self._rounds.running_s()

    def begin_inputs(self, inputs: Sequence[Input], manner: Manner, asked: Slots = ()) -> Texts:
        """Have texts written, in the style and length that are `asked` for; the caller ends with `leave`.

        Raises `InputError` and `Refused`.
        """
        words = self.generator.worded(inputs, asked)
        return self._begin(words, self.generator.read(words), manner)

    def begin_chat(self, messages: Sequence[Said], manner: Manner) -> Texts:
        """The same for the text that answers a conversation."""
        if (conversation := self.generator.conversation) is None:
            raise Refused(
                422,
                f"the bundle of {self.service} has no chat template (chat_template), so it takes no conversation; ask "
                f"/v1/{self.service}/completions",
                "messages",
            )
        prompt = conversation.prompt(messages)
        return self._begin([prompt], [self.generator.prompt_of(prompt)], manner)

    def _begin(self, words: Sequence[str], prompts: Sequence[Sequence[int]], manner: Manner) -> Texts:
        holds = self.generator.bundle.max_length
        limit = self.spec.max_tokens or holds
        if manner.max_tokens is not None and manner.max_tokens > limit:
            raise Refused(422, f"max_tokens must be at most {limit}, which this service writes", "max_tokens")
        most = [min(holds - len(ids), manner.max_tokens or limit) for ids in prompts]
        if self.generator.checks:
            texts = CheckedTexts(self.generator, self._rounds, words, prompts, most, manner)
        else:
            texts = Texts(prompts, most, manner, self.generator.tokenizer)
        try:
            self._rounds.add(texts.writings)
        except QueueFull:
            raise full("texts") from None
        for each in words:
            self._meter.read(len(each))
        return texts

    async def _answer(self, body: bytes, caller: Caller) -> Answer:
        question = read_question(body, WriteQuestion, self.spec.max_inputs)
        try:
            asked = asked_manner(question.model_dump(include={*FIELDS}), self.generator.bundle.manner)
        except ValueError as error:
            field, wanted = error.args
            raise Refused(422, f"{field} must be {wanted}", field) from None
        texts = self.begin_inputs(question.inputs, question, asked)
        details = self._details(texts) if question.details else _no_details
        if question.stream:
            return Stream(self._events(texts, caller.until, details), texts.leave)
        predictions = [
            {"text": each.text, "finish_reason": each.finish_reason} | each.checked | details(each.index)
            for each in await texts.whole(caller)
        ]
        return {"model": self.release.model, "predictions": predictions}

    async def _events(self, texts: Texts, until: float, details: DetailsOf) -> AsyncIterator[bytes]:
        async for each in texts.pieces(until):
            piece = {"index": each.index, "text": each.text}
            if each.finish_reason:
                piece |= {"finish_reason": each.finish_reason, "usage": each.usage, "model": self.release.model}
                piece |= each.checked | details(each.index)
            yield event(piece)

    def _details(self, texts: Texts) -> DetailsOf:
        began = time.perf_counter()

        def details(index: int) -> dict[str, Any]:
            unknown = self.generator.unknown_share(texts.writings[index].prompt)
            return {"unknown": unknown, "cut": False, "ms": 1e3 * (time.perf_counter() - began)}

        return details


def _no_details(_: int) -> dict[str, Any]:
    return {}


def put_in_service(service: str, release: Release, spec: ServingSpec, meter: Meter = UNMETERED) -> Writer:
    """Load a decoder. Raises `BundleError`."""
    return Writer(load_generator(release.bundle, spec.threads), service, release, spec, meter)
