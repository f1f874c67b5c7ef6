"""Replies to messages: the template of a message's class, its placeholders filled, or a handover with the reason.

A bundle of kind `reply` is a classifier's, a cascade's too, with a file of templates and a threshold in its field
`reply`. In a template `{{name}}` is a placeholder. A message is handed over where its class is less probable than the
threshold, has no template, or where each template of it has a placeholder without a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import TypedDict  # see serving.forms

from serving.bundle import TEMPLATES, Bundle, BundleError, copy_bundle, read_description
from serving.classifier import Classifier, Prediction
from serving.inputs import Input, InputError, number_text
from serving.runtime import load_bundle

PLACEHOLDER = re.compile(r"\{\{\s*([^{}]+?)\s*\}\}")
LONGEST_VALUE = 1000  # characters
UNSURE = "the class is not certain enough"
NO_TEMPLATE = "the class has no template"
Fields = Mapping[str, str | float | None]  # values by the name of their placeholder


class Reply(TypedDict):
    """The answer to a message."""

    text: Annotated[str, Field(description="empty where the message is handed over")]
    intent: Annotated[str, Field(description="the likeliest class")]
    score: Annotated[float, Field(description="its probability")]
    handover: bool
    reason: Annotated[str | None, Field(description="of the handover")]


class Templates(BaseModel):
    """`templates.json` of a bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fields: list[str] = Field(description="placeholders that stand for a value of the message, as rows' columns")
    templates: dict[str, list[str]] = Field(description="by class; the first one that can be filled is the reply")


class Part(NamedTuple):
    """A piece of a template."""

    text: str
    is_name: bool  # of a placeholder


def parts(template: str) -> Iterator[Part]:
    """Texts and placeholders of a template, in order."""
    pieces = PLACEHOLDER.split(template)  # texts at even places
    return (Part(piece, bool(place % 2)) for place, piece in enumerate(pieces) if piece)


def names(template: str) -> list[str]:
    """Names of its placeholders, each once."""
    return list(dict.fromkeys(each.text for each in parts(template) if each.is_name))


def values_of(fields: Fields) -> dict[str, str]:
    """The values that are given, as texts; what is empty is not given. Raises `ValueError` for one that is too long."""
    told = {
        name: value if isinstance(value, str) else number_text(value)
        for name, value in fields.items()
        if value is not None
    }
    if any(len(value) > LONGEST_VALUE for value in told.values()):
        raise ValueError(f"a value in fields is longer than {LONGEST_VALUE} characters")
    return {name: value for name, value in told.items() if value.strip()}


def missing(template: str, values: Mapping[str, str]) -> str | None:
    """Name of the first placeholder without a value."""
    return next((name for name in names(template) if name not in values), None)


def fill(template: str, values: Mapping[str, str]) -> str:
    """The template with its values, put in as they are: braces in a value are no placeholder."""
    return "".join(values[each.text] if each.is_name else each.text for each in parts(template))


class Replies:
    """Predictions of a classifier, made replies."""

    def __init__(self, templates: Templates, threshold: float) -> None:
        self.templates, self.threshold = templates, threshold

    def reply(self, prediction: Prediction, values: Mapping[str, str]) -> Reply:
        """The reply to one message; `values` as of `values_of`."""
        intent, score = prediction["label"], prediction["score"]
        text, reason = "", None
        known = self.templates.templates.get(intent, [])
        lacks = [missing(each, values) for each in known]
        if not known:
            reason = NO_TEMPLATE
        elif score < self.threshold:
            reason = UNSURE
        elif None in lacks:
            text = fill(known[lacks.index(None)], values)
        else:
            reason = f"the placeholder {lacks[-1]!r} has no value"
        return {"text": text, "intent": intent, "score": score, "handover": reason is not None, "reason": reason}


class Replier:
    """A loaded bundle: messages and values -> replies."""

    def __init__(self, classifier: Classifier, replies: Replies) -> None:
        self.classifier, self.replies = classifier, replies

    @property
    def bundle(self) -> Bundle:
        """What its manifest says."""
        return self.classifier.bundle

    def predict(self, inputs: Sequence[Input | Mapping[str, Any]]) -> list[Reply]:
        """One reply for each input, in order: a message, or an object with it as `input` and its values as `fields`.

        Raises `InputError`.
        """
        asked = [_asked(index, each) for index, each in enumerate(inputs)]
        predictions = self.classifier.predict([message for message, _ in asked])
        return [self.replies.reply(each, values) for each, (_, values) in zip(predictions, asked, strict=True)]


def load_reply(folder: Path | str, threads: int = 1) -> Replier:
    """Verify a bundle of kind `reply` and load it on the CPU. Raises `BundleError`."""
    folder = Path(folder)
    if read_description(folder).reply is None:
        raise BundleError(f"{folder}: a bundle without replies; python -m jobs.reply makes one with them")
    classifier = load_bundle(folder, threads)
    return Replier(classifier, read_replies(folder, classifier.bundle))


def read_replies(folder: Path, bundle: Bundle) -> Replies:
    """The templates in the verified `folder` of a bundle of kind `reply`. Raises `BundleError`."""
    assert bundle.reply is not None
    try:
        templates = Templates.model_validate_json((folder / TEMPLATES).read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise BundleError(f"{folder / TEMPLATES}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if unknown := sorted(templates.templates.keys() - set(bundle.labels)):
        raise BundleError(f"{folder / TEMPLATES}: {len(unknown)} of its classes are no labels of the bundle")
    return Replies(templates, bundle.reply.threshold)


def fields_of(folder: Path) -> list[str]:
    """The columns of values that a bundle of kind `reply` may say of a message. Raises `BundleError`."""
    return read_replies(folder, read_description(folder)).templates.fields


def with_replies(source: Path, folder: Path, replies: Replies, provenance: Mapping[str, Any]) -> Bundle:
    """Make `folder` the bundle of kind `reply` of the classifier in `source`. Raises `BundleError`."""
    fields = {"format_version": 2, "kind": "reply", "reply": {"threshold": replies.threshold}, "metrics": {}}
    files = {TEMPLATES: replies.templates.model_dump_json(indent=1) + "\n"}
    return copy_bundle(source, folder, provenance, fields, files)


def _asked(index: int, each: Any) -> tuple[Any, dict[str, str]]:
    """(message, values) of an input."""
    if not (isinstance(each, Mapping) and each.keys() == {"input", "fields"}):
        return each, {}
    fields = each["fields"]
    if not isinstance(fields, Mapping) or not all(map(_is_value, fields.values())):
        raise InputError(f"input {index}: fields must be an object of values, each a text or a number")
    try:
        return each["input"], values_of(fields)
    except ValueError as error:
        raise InputError(f"input {index}: {error}") from None


def _is_value(value: Any) -> bool:
    return value is None or (isinstance(value, str | int | float) and not isinstance(value, bool))
