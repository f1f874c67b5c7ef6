"""What a service takes and gives, as JSON Schema: of its entry in GET /v1/models alone, so that whoever lists services
can describe them without a model.

The record of a task, or of a kind of bundles, names the function that says it, `(entry) -> forms by what follows
/v1/<service> in the path`; it stands beside the bodies and answers that it describes. `serving.openapi` publishes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model
from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import TypedDict  # the one of typing is not read by pydantic before Python 3.12

from configs.schema.kinds import KINDS
from configs.schema.serving import ServingSpec
from configs.schema.tasks import TASKS, named

Schema = dict[str, Any]  # JSON Schema, 2020-12
Said = str | int | float | None
Attributes = (
    Annotated[dict[str, Said | list[Said]], Field(min_length=1, title="object of attributes")]
    | Annotated[list[tuple[str, Said | list[Said]]], Field(min_length=1, title="list of [name, value]")]
)


class Limits(BaseModel):
    """What requests of a service must keep; see the fields of these names in the recipe."""

    max_inputs: int = ServingSpec.model_fields["max_inputs"].default
    max_body_bytes: int = ServingSpec.model_fields["max_body_bytes"].default
    request_timeout_s: float = ServingSpec.model_fields["request_timeout_s"].default
    max_tokens: int | None = Field(default=None, description="of a decoder: most tokens of a text")


class Candidate(BaseModel):
    """A model that is tried beside the one of a service."""

    name: str
    version: str
    share: float = Field(description="per cent of the requests that it answers; 0: it is asked, and nobody sees it")
    sticky: str | None = Field(default=None, description="header whose value decides whether it answers")


class Entry(BaseModel):
    """What GET /v1/models says of a service."""

    service: str = Field(description="its name: POST /v1/<service>")
    name: str = Field(description="of the model")
    version: str = Field(description="of the model")
    task: str
    kind: str = Field(default="single", description="what answers: a model alone (single), or what holds one")
    pairs: bool = Field(default=False, description="an input is a text and a second text")
    attributes: bool = Field(default=False, description="an object of attributes may stand in place of a text")
    conversations: bool = Field(default=False, description="an input may be a conversation")
    checked: bool = Field(default=False, description="texts go out after checks")
    created: int = Field(default=0, description="since when it answers, in seconds since 1970")
    since: str | None = Field(default=None, description="the same as ISO 8601, UTC")
    share: float = Field(default=100, description="per cent of the requests that it answers; a candidate has the rest")
    evidence: dict[str, float] | None = Field(
        default=None,
        description="figures for which it was let into service: on test rows, or on validation rows where named so",
    )
    labels: list[str] | None = Field(default=None, description="of a classifier")
    max_length: int | None = Field(default=None, description="of a decoder: tokens that it holds")
    manner: dict[str, list[str]] | None = Field(
        default=None, description="of a decoder: fields by which a request asks how to write, with their values"
    )
    fields: list[str] | None = Field(default=None, description="of replies: placeholders that a message has values for")
    limits: Limits = Limits()
    candidate: Candidate | None = Field(default=None, description="while a rollout lasts")


@dataclass(frozen=True)
class Form:
    """What a route takes and gives."""

    summary: str
    body: Schema
    answer: Schema
    asked: Mapping[str, Any]  # an example of a body
    events: str | None = None  # what the events of a stream are, where "stream": true asks for one


class Named(TypedDict):
    """The model that answered."""

    name: str
    version: str


class Message(TypedDict):
    """What one side of a conversation said."""

    role: Annotated[str, Field(json_schema_extra={"enum": ["system", "user", "assistant"]})]
    content: Annotated[str, Field(min_length=1)]


class Conversation(TypedDict):
    """A conversation."""

    messages: Annotated[list[Message], Field(min_length=1)]


class _Generated(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never: it would be the field's name again."""
        return False


def forms_of(entry: Entry) -> Mapping[str, Form]:
    """The forms of a service, by what follows it in the path."""
    return named((KINDS.get(entry.kind) or TASKS[entry.task]).forms)(entry)


def schema_of(kind: Any, **narrowed: Schema | None) -> Schema:
    """The JSON Schema of an object; `narrowed`: what more is known of its fields, None for one that is not there."""
    shape = _described(kind)
    for name, more in narrowed.items():
        if more is None:
            del shape["properties"][name]
        else:
            shape["properties"][name] |= more
    return shape


def answer_of(prediction: Schema) -> Schema:
    """The answer of a service whose predictions are these."""
    predictions = {
        "type": "array",
        "items": {**prediction, "additionalProperties": False},
        "description": "in the order of the inputs",
    }
    named_by = {"model": _described(Named), "predictions": predictions}
    return {
        "title": "Answer",
        "type": "object",
        "properties": named_by,
        "required": [*named_by],
        "additionalProperties": False,
    }


def inputs_of(entry: Entry) -> Schema:
    """What more is known of the `inputs` of a service."""
    return {"items": _described(_input_type(entry)), "maxItems": entry.limits.max_inputs}


def example_of(entry: Entry) -> Any:
    """An input of a service."""
    if entry.conversations:
        return {"messages": [{"role": "user", "content": "where is my order"}]}
    text = {"name": "Apollo", "inch": 40} if entry.attributes else "where is my order"
    return {"text": text, "text_pair": "when will it be delivered"} if entry.pairs else text


def _input_type(entry: Entry) -> Any:
    if entry.conversations:
        return str | Conversation | Annotated[list[Message], Field(min_length=1)]
    part: Any = str | Attributes if entry.attributes else str
    if not entry.pairs:
        return part
    pair = create_model("Pair", __config__=ConfigDict(extra="forbid"), text=(part, ...), text_pair=(part, ...))
    return pair | tuple[part, part]


def _described(kind: Any) -> Schema:
    made = TypeAdapter(kind).json_schema(schema_generator=_Generated)
    return _inlined(made, made.pop("$defs", {}))


def _inlined(part: Any, definitions: Mapping[str, Any]) -> Any:
    """Without references, whose names other services have too, and without what is null."""
    if isinstance(part, list):
        return [_inlined(each, definitions) for each in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        beside = {name: each for name, each in part.items() if name != "$ref"}
        return _inlined(definitions[part["$ref"].rpartition("/")[2]] | beside, definitions)
    return {name: _inlined(each, definitions) for name, each in part.items() if each is not None}
