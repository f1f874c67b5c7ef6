"""OpenAI's routes of a decoder: completions of prompts and of conversations, whole or as server-sent events.

A client's base URL is `/v1/<service>`, or `/v1` with the service as `model`. A prompt is an input of the service, so
that both give the same text; a conversation needs a bundle with a chat template. What a request may not say here is
refused by its name, never ignored.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from serving.questions import listed, read_body
from serving.service import Answer, Caller, Refused, Route, Stream, event
from serving.texts import Manner, Texts, Written

DONE = b"data: [DONE]\n\n"
OWNER = "slimcart"
# Fields that do not work here, each with the values that ask for nothing.
UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0, 0.0),
    "function_call": (),
    "functions": (),
    "logit_bias": ({},),
    "logprobs": (False,),
    "metadata": (),
    "modalities": (["text"],),
    "n": (1,),
    "parallel_tool_calls": (),
    "prediction": (),
    "presence_penalty": (0, 0.0),
    "prompt_cache_key": (),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "safety_identifier": (),
    "service_tier": (),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": (),
    "tools": ([],),
    "top_logprobs": (),
    "user": (),
    "verbosity": (),
    "web_search_options": (),
}


class Form(NamedTuple):
    """How the answers of one route look."""

    prefix: str  # of their names
    whole: str  # what an answer is called
    chunk: str  # what a part of one is called
    said: Callable[[str], Mapping[str, Any]]  # a whole text -> the own part of its choice
    piece: Callable[[str], Mapping[str, Any]]  # a piece of one -> the same
    opening: Mapping[str, Any] | None = None  # the own part of a chunk before the first piece


COMPLETION = Form(
    "cmpl", "text_completion", "text_completion", said=lambda text: {"text": text}, piece=lambda text: {"text": text}
)
CHAT = Form(
    "chatcmpl",
    "chat.completion",
    "chat.completion.chunk",
    said=lambda text: {"message": {"role": "assistant", "content": text}},
    piece=lambda text: {"delta": {"content": text} if text else {}},
    opening={"delta": {"role": "assistant", "content": ""}},
)


class Options(BaseModel):
    """What is asked of a stream."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False


class OpenAiQuestion(Manner):
    """What both bodies have in common."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str = Field(description="the name of a service")
    stream_options: Options | None = Field(default=None, description='{"include_usage": true or false}')

    @model_validator(mode="before")
    @classmethod
    def null_is_not_given(cls, body: Any) -> Any:
        """As in OpenAI's own description of these fields."""
        return {key: value for key, value in body.items() if value is not None} if isinstance(body, dict) else body

    def check(self, service: str) -> None:
        """Raises `Refused` for what this service does not do."""
        extra = self.model_extra or {}
        for name, value in extra.items():
            if name not in UNSUPPORTED:
                raise Refused(422, f"the body holds an unknown key; known are {listed(list(type(self).model_fields))}")
            if not any(value == each and type(value) is type(each) for each in UNSUPPORTED[name]):
                raise Refused(422, f"{name} is not supported here with this value; leave it out", name)
        if self.model != service:
            raise Refused(404, f"model must be {service!r} here", "model")
        if self.stream_options is not None and not self.stream:
            raise Refused(422, "stream_options needs stream to be true", "stream_options")


class CompletionQuestion(OpenAiQuestion):
    """The body of `/completions`."""

    prompt: str | list[str] = Field(description="a text, or a list of texts")


class Part(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """What one side of a conversation said."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "user", "assistant"]
    content: str | list[Part]

    @property
    def text(self) -> str:
        """All that was said."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatQuestion(OpenAiQuestion):
    """The body of `/chat/completions`."""

    messages: list[Message] = Field(
        min_length=1, description="a list of messages, each with role (system, user or assistant) and content (a text)"
    )
    max_completion_tokens: int | None = Field(default=None, ge=1, description="a whole number of at least 1")


class Writes(Protocol):
    """The decoder behind the routes."""

    @property
    def service(self) -> str:
        """Its name."""
        ...

    def begin_inputs(self, inputs: Sequence[str], manner: Manner) -> Texts:
        """Texts for inputs of the service. Raises `InputError` and `Refused`."""
        ...

    def begin_chat(self, messages: Sequence[Mapping[str, str]], manner: Manner) -> Texts:
        """The text that answers a conversation. Raises `Refused`."""
        ...


def routes(writes: Writes, max_inputs: int) -> dict[str, Route]:
    """The routes of a decoder, by what follows the service in the path."""

    async def complete(body: bytes, caller: Caller) -> Answer:
        question = read_body(body, CompletionQuestion, "an object with model and prompt")
        question.check(writes.service)
        prompts = [question.prompt] if isinstance(question.prompt, str) else question.prompt
        if not 1 <= len(prompts) <= max_inputs:
            raise Refused(422, f"prompt must be a text, or a list of 1 to {max_inputs} texts", "prompt")
        return await _answered(
            writes.begin_inputs(prompts, question), question, Shaped(COMPLETION, question.model), caller
        )

    async def chat(body: bytes, caller: Caller) -> Answer:
        question = read_body(body, ChatQuestion, "an object with model and messages")
        question.check(writes.service)
        if question.max_completion_tokens is not None:
            if question.max_tokens is not None:
                raise Refused(422, "max_tokens stands beside max_completion_tokens; leave one out", "max_tokens")
            question = question.model_copy(update={"max_tokens": question.max_completion_tokens})
        said = [{"role": each.role, "content": each.text} for each in question.messages]
        return await _answered(writes.begin_chat(said, question), question, Shaped(CHAT, question.model), caller)

    return {"completions": complete, "chat/completions": chat}


def model_entry(service: str, created: int) -> dict[str, JsonValue]:
    """A model as OpenAI lists it; `created`: seconds since 1970."""
    return {"id": service, "object": "model", "created": created, "owned_by": OWNER}


class Shaped:
    """One answer in its form."""

    def __init__(self, form: Form, service: str) -> None:
        self._form = form
        self._named = {"id": f"{form.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": service}

    def whole(self, texts: Sequence[Written]) -> dict[str, Any]:
        """All texts at once."""
        choices = [_choice(each.index, self._form.said(each.text), each.said_reason) for each in texts]
        return {**self._object(self._form.whole, choices), "usage": _total(texts)}

    def opening(self, texts: int) -> list[dict[str, Any]]:
        """Chunks before the first piece."""
        first = self._form.opening
        return [self._object(self._form.chunk, [_choice(index, first)]) for index in range(texts)] if first else []

    def chunk(self, each: Written) -> dict[str, Any]:
        """A piece of one text."""
        return self._object(self._form.chunk, [_choice(each.index, self._form.piece(each.text), each.said_reason)])

    def usage(self, ends: Sequence[Written]) -> dict[str, Any]:
        """The last chunk, where it is asked for."""
        return {**self._object(self._form.chunk, []), "usage": _total(ends)}

    def _object(self, kind: str, choices: list[Any]) -> dict[str, Any]:
        return {**self._named, "object": kind, "choices": choices}


async def _answered(texts: Texts, question: OpenAiQuestion, shaped: Shaped, caller: Caller) -> Answer:
    if question.stream:
        return Stream(_events(texts, question, shaped, caller.until), texts.leave)
    return shaped.whole(await texts.whole(caller))


async def _events(texts: Texts, question: OpenAiQuestion, shaped: Shaped, until: float) -> AsyncIterator[bytes]:
    ends = []
    for chunk in shaped.opening(len(texts.writings)):
        yield event(chunk)
    async for each in texts.pieces(until):
        yield event(shaped.chunk(each))
        if each.finish_reason:
            ends.append(each)
    if question.stream_options and question.stream_options.include_usage:
        yield event(shaped.usage(ends))
    yield DONE


def _total(texts: Sequence[Written]) -> dict[str, int]:
    counted = [each.usage for each in texts if each.usage]
    read, written = (sum(each[name] for each in counted) for name in ("prompt_tokens", "completion_tokens"))
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _choice(index: int, own: Mapping[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"index": index, **own, "logprobs": None, "finish_reason": reason}
