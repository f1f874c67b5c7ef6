"""Replies in service, see `serving.reply`: classes of several requests at a time, each made a reply.

    {"inputs": [...], "fields": [{"Order Number": "12"}, ...]}
    -> {"model": {"name", "version"}, "predictions": [{"text", "intent", "score", "handover", "reason"}, ...]}

`fields` gives the values of placeholders: an object for each input, or one for all. With "details": true also what was
read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from configs.schema.serving import ServingSpec
from serving.classifier import DETAILS, Details
from serving.forms import Entry, Form, answer_of, example_of, inputs_of, schema_of
from serving.labelling import Labelling, Waiting
from serving.metrics import UNMETERED, Meter
from serving.questions import DETAILED, Question, read_question
from serving.reply import Replier, Reply, load_reply, values_of
from serving.service import Answer, Caller, Refused, Release, Route

Value = str | int | Annotated[float, Field(allow_inf_nan=False)] | None
MOST_FIELDS = 100  # of an input


class ReplyQuestion(Question):
    """The body of a request."""

    fields: dict[str, Value] | list[dict[str, Value]] = Field(
        default_factory=dict,
        description="an object of values, each a text or a number, for all inputs, or a list of one such object for "
        "each input",
        json_schema_extra={
            "description": "values of the placeholders of replies, each a text or a number: an object for all inputs, "
            "or a list of one object for each"
        },
    )
    details: bool = Field(default=False, description="true or false", json_schema_extra=DETAILED)


class Replied(Reply, Details):
    """The reply to an input, and what else was asked for."""


def forms(entry: Entry) -> dict[str, Form]:
    """The form of the service itself."""
    body = schema_of(ReplyQuestion, inputs=inputs_of(entry))
    answer = answer_of(schema_of(Replied, intent={"enum": entry.labels or []}))
    asked = {"inputs": [example_of(entry)], "fields": dict.fromkeys(entry.fields or [], "12")}
    return {"": Form("Reply to messages", body, answer, asked)}


class Replying:
    """See `serving.service.InService`."""

    def __init__(self, replier: Replier, release: Release, spec: ServingSpec, meter: Meter = UNMETERED) -> None:
        self.replier, self._release, self._spec = replier, release, spec
        self._labelling = Labelling(replier.classifier, release, spec, meter)

    @property
    def routes(self) -> Mapping[str, Route]:
        """The service itself."""
        return {"": self._answer}

    def running_s(self) -> float:
        """Seconds since the batch at work began."""
        return self._labelling.running_s()

    async def _answer(self, body: bytes, _: Caller) -> Answer:
        question = read_question(body, ReplyQuestion, self._spec.max_inputs)
        values = _values(question)
        waiting = Waiting(self.replier.classifier.rows(question.inputs), details=question.details)
        found = await self._labelling.predict(waiting)
        replies = [
            {**self.replier.replies.reply(each, told), **{name: each[name] for name in DETAILS & each.keys()}}
            for each, told in zip(found, values, strict=True)
        ]
        return {"model": self._release.model, "predictions": replies}


def put_in_service(_: str, release: Release, spec: ServingSpec, meter: Meter = UNMETERED) -> Replying:
    """Load a bundle of kind `reply`. Raises `BundleError`."""
    return Replying(load_reply(release.bundle, spec.threads), release, spec, meter)


def _values(question: ReplyQuestion) -> list[dict[str, str]]:
    """The values of each input. Raises `Refused`."""
    given, count = question.fields, len(question.inputs)
    each = given if isinstance(given, list) else [given]
    if isinstance(given, list) and len(given) != count:
        raise Refused(
            422, f"{len(given)} fields for {count} inputs; send one object for each, or one for all", "fields"
        )
    if any(len(fields) > MOST_FIELDS for fields in each):
        raise Refused(422, f"more than {MOST_FIELDS} fields for an input; send those that its replies need", "fields")
    try:
        told = [values_of(fields) for fields in each]
    except ValueError as error:
        raise Refused(422, str(error), "fields") from None
    return told if isinstance(given, list) else told * count
