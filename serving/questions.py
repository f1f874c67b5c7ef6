"""Bodies of requests, read so that a refusal never repeats what the customer sent.

A body is a pydantic model whose fields say in their `description` what they must be.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from serving.service import Refused
from serving.strict_json import NotStrict, check_strict

# A description says what a field must be, for refusals; what it does stands in its JSON Schema instead.
DETAILED: dict[str, JsonValue] = {"description": "true adds what was read of each input, and the model's time"}


class Question(BaseModel):
    """A body that holds inputs."""

    model_config = ConfigDict(extra="forbid", strict=True)

    inputs: list[str | dict[str, JsonValue] | list[JsonValue]] = Field(
        min_length=1, description="a list of at least one input"
    )  # the model checks their kind


Body = TypeVar("Body", bound=BaseModel)
Asked = TypeVar("Asked", bound=Question)


def read_question(body: bytes, kind: type[Asked], max_inputs: int) -> Asked:
    """The parsed body; raises `Refused`."""
    question = read_body(body, kind, "an object with inputs")
    if len(question.inputs) > max_inputs:
        raise Refused(422, f"{len(question.inputs)} inputs; send at most {max_inputs} in one request", "inputs")
    return question


def read_body(body: bytes, kind: type[Body], wanted: str) -> Body:
    """The parsed body, which must be `wanted`; raises `Refused` with positions and field names, never the text."""
    try:
        check_strict(body)
        return kind.model_validate_json(body)
    except NotStrict as error:
        raise Refused(400, f"the body {error}") from None
    except ValidationError as error:
        raise _explained(error, kind, wanted) from None


def listed(names: Sequence[str]) -> str:
    """Names as a part of a sentence."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _explained(error: ValidationError, kind: type[BaseModel], wanted: str) -> Refused:
    """The first fault in words; they show only indices and our own field names of its `loc`."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return Refused(400, f"the body is not JSON in UTF-8{_position(first['msg'])}")
    field, index = [*first["loc"], "", ""][:2]
    if first["type"] == "extra_forbidden":
        return Refused(422, f"the body holds an unknown key; known are {listed(list(kind.model_fields))}")
    if field == "inputs" and isinstance(index, int) and issubclass(kind, Question):
        return Refused(422, f"input {index} is neither a text nor an object, as for pairs and attributes", "inputs")
    if field in kind.model_fields:
        return Refused(422, f"{field} must be {kind.model_fields[str(field)].description}", str(field))
    return Refused(422, f"the body must be {wanted}")


def _position(message: str) -> str:
    match = re.search(r"line \d+ column \d+", message)
    return f": {match.group()}" if match else ""
