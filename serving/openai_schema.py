"""OpenAI's routes as JSON Schema: what `serving.openai` takes and gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, JsonValue
from typing_extensions import TypedDict  # see serving.forms

from serving.forms import Entry, Form, Schema, schema_of
from serving.openai import OWNER, UNSUPPORTED, ChatQuestion, CompletionQuestion
from serving.rounds import FinishReason

EVENTS = "Server-sent events that hold OpenAI's chunks; the last one is `[DONE]`. One with `error` says that it failed."
Reason = FinishReason | Literal["content_filter"]


class Usage(TypedDict):
    """Tokens of all texts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Choice(TypedDict):
    """A text, in OpenAI's words."""

    index: int
    finish_reason: Annotated[Reason, Field(description="content_filter: it is held back by the checks of the service")]
    logprobs: None


class CompletionChoice(Choice):
    """The text that follows a prompt."""

    text: str


class Spoken(TypedDict):
    """What the model said."""

    role: Literal["assistant"]
    content: str


class ChatChoice(Choice):
    """The answer to a conversation."""

    message: Spoken


class Answered(TypedDict):
    """What both answers have in common."""

    id: str
    created: Annotated[int, Field(description="seconds since 1970")]
    model: str
    usage: Usage


class Completion(Answered):
    """The answer to prompts."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]


class ChatCompletion(Answered):
    """The answer to a conversation."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class Model(TypedDict):
    """A service as OpenAI lists it."""

    id: str
    object: Literal["model"]
    created: Annotated[int, Field(description="seconds since 1970")]
    owned_by: Annotated[str, Field(json_schema_extra={"const": OWNER})]


class Models(TypedDict):
    """What runs, as OpenAI lists it."""

    object: Literal["list"]
    data: list[Model]


class Listed(Models):
    """What runs, as OpenAI lists it, and as slimcart does."""

    models: list[Entry]


class Fault(TypedDict):
    """Why a request was not answered."""

    message: str
    type: str
    param: Annotated[str | None, Field(description="the field of the body that is at fault")]
    code: str | None


class Error(TypedDict):
    """An error in OpenAI's words."""

    error: Fault


def forms(services: Sequence[str], entry: Entry | None = None) -> dict[str, Form]:
    """The routes of a decoder by their path below it; of several services by the path below /v1, without `entry`."""
    if entry is not None and entry.pairs:
        return {}  # a prompt is one text
    example = {"model": services[0], "max_tokens": 20}
    prompt = _body(CompletionQuestion, services, entry, prompt=_prompts(entry))
    made = {
        "completions": Form(
            "Complete prompts (OpenAI)",
            prompt,
            schema_of(Completion),
            {**example, "prompt": "where is my order"},
            EVENTS,
        )
    }
    if entry is None or entry.conversations:
        said = {"messages": [{"role": "user", "content": "where is my order"}]}
        body = _body(ChatQuestion, services, entry)
        made["chat/completions"] = Form(
            "Answer a conversation (OpenAI)", body, schema_of(ChatCompletion), {**example, **said}, EVENTS
        )
    return made


def _prompts(entry: Entry | None) -> Schema:
    several: Schema = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    if entry is not None:
        several["maxItems"] = entry.limits.max_inputs
    return {"anyOf": [{"type": "string"}, several]}


def _body(kind: type[BaseModel], services: Sequence[str], entry: Entry | None, **narrowed: Schema) -> Schema:
    """Fields that ask for nothing may be there, and null is not given."""
    limit = {"maximum": entry.limits.max_tokens} if entry and entry.limits.max_tokens else {}
    tokens = {name: limit for name in ("max_tokens", "max_completion_tokens") if name in kind.model_fields}
    shape = schema_of(kind, model={"enum": [*services]}, **tokens, **narrowed)
    own = {name: each if name in shape["required"] else _or_null(each) for name, each in shape["properties"].items()}
    return {**shape, "properties": {**own, **_without_meaning()}, "additionalProperties": False}


def _or_null(schema: Mapping[str, Any]) -> Schema:
    if {"type": "null"} in schema.get("anyOf", []):
        return dict(schema)
    beside = {name: schema[name] for name in ("description", "default") if name in schema}
    bare = {name: each for name, each in schema.items() if name not in beside}
    return {"anyOf": [bare, {"type": "null"}], **beside}


def _without_meaning() -> dict[str, JsonValue]:
    """What may be there, as it asks for nothing. 0 and 0.0 are one number in JSON."""
    asks_nothing = {
        name: [each for each in values if not isinstance(each, float)] for name, values in UNSUPPORTED.items()
    }
    return {name: {"enum": [*values, None], "description": "without effect"} for name, values in asks_nothing.items()}
