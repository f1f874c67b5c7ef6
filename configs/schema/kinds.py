"""Kinds of bundles that answer with more than their model, one record each.

A new kind is a Predictor in `serving/` and a record here; a bundle of it says its `kind` in `bundle.json`. What a kind
has no word for, its task's record says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

BY_LABEL = "a double for each label"  # a type of answers; the others are named as Arrow names them
READ = {"unknown": "double", "cut": "bool"}  # of an input, as far as it does not depend on what is asked beside it


@dataclass(frozen=True)
class Kind:
    """What is said of a bundle by its kind instead of its task; functions are named "module:name"."""

    open: str  # (folder of a bundle, threads) -> its predictor
    service: str  # (its name, release, serving, meter) -> serving.service.InService
    forms: str  # (entry of GET /v1/models) -> serving.forms.Form by path: what that takes and gives
    answers: Mapping[str, str]  # what that says of an input, by name: the type of such a column
    further_answers: Mapping[str, Mapping[str, str]]  # what it says besides, by the field of a request that asks for it
    fields: str | None  # (folder of a bundle) -> columns of values that a request gives in `fields`
    answering: str  # (predictor) -> jobs.measure.answers.LoadedContender
    smoke: str  # (uri, folder, bundle): one question before a deployment
    tested: str  # (recipe, folder) -> jobs.measure.answers.KindTest: further metrics of the test rows
    card: str  # what a model card says of such a bundle, with {threshold}


KINDS: dict[str, Kind] = {
    "reply": Kind(
        open="serving.reply:load_reply",
        service="serving.replying:put_in_service",
        forms="serving.replying:forms",
        answers={
            "text": "string",
            "intent": "string",
            "score": "double",
            "handover": "bool",
            "reason": "string",
        },
        further_answers={"details": READ},
        fields="serving.reply:fields_of",
        answering="jobs.tasks.classify.replies:Replying",
        smoke="jobs.tasks.classify.replies:smoke",
        tested="jobs.tasks.classify.replies:of_test_rows",
        card="A message whose class has a probability of {threshold:.4f} or more is answered with the reply of that "
        "class in `templates.json`, its placeholders filled; the others are handed over.",
    )
}

if TYPE_CHECKING:
    KindName = str
else:
    KindName = Literal[*KINDS]
