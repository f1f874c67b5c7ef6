"""Replies of a classifier: where their templates come from, from which probability on they are given, and how they do
on rows."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cluster.session import JobError
from configs.folder import digest_json
from configs.loader import UsageError
from configs.schema.recipe import Recipe
from configs.schema.reply import ReplySpec
from configs.schema.tasks import GENERATE, named
from jobs.data.source import Row, Split, rows_with
from jobs.measure.answers import Answer, KindTest, Predictor, input_of
from jobs.measure.calibration import lowest_safe_threshold
from jobs.measure.served import SMOKE
from jobs.tasks.classify.evaluation import Labelling
from jobs.tasks.classify.templates import Message, learn
from serving.bundle import Bundle, read_bundle
from serving.classifier import Classifier, Prediction
from serving.drift import Profile
from serving.generator import load_generator
from serving.inputs import Input, joined
from serving.reply import PLACEHOLDER, Replier, Replies, Templates, fill, load_reply, missing, names, read_replies

MOST_SCORED = 1000  # validation rows that templates are compared with: ROUGE-L takes milliseconds each
DECIDES = "rouge_l"  # which of two sources of templates is the better one
HANDED_OVER, ANSWERED_RIGHT, OPEN = "handed_over", "answered_right", "open_placeholders"

log = logging.getLogger(__name__)


class Told(NamedTuple):
    """A row with its reply, empty in test rows, and the values of its message by column."""

    row: Row
    reply: str
    values: dict[str, str]

    @property
    def message(self) -> Message:
        """What a template is learned of."""
        return Message(joined(input_of(self.row)), self.row.label, self.reply, self.values)


class Made(NamedTuple):
    """Templates and threshold of a classifier, where the templates come from, and figures of validation rows."""

    replies: Replies
    source: str  # template or decoder
    figures: dict[str, float]


@dataclass(frozen=True)
class Replying:
    """The predictor of a bundle of kind `reply`: what it says of a row is the class that it would answer."""

    replier: Replier

    def __call__(self, inputs: Sequence[Input]) -> list[Answer]:
        """Classes with their probabilities, in order."""
        return [Answer(each["intent"], each["score"]) for each in self.replier.predict(inputs)]

    def figures(self, inputs: Sequence[Input]) -> dict[str, float]:
        """Those of its classifier."""
        return Labelling(self.replier.classifier).figures(inputs)

    def profile(self, inputs: Sequence[Input], answers: Sequence[Answer]) -> Profile:
        """That of its classifier."""
        return Labelling(self.replier.classifier).profile(inputs, answers)

    def of_length(self, prompt: int, answer: int) -> Predictor:
        """Itself: it writes no tokens."""
        return self


def told(recipe: Recipe, split: Split) -> list[Told]:
    """The training or validation rows that have a reply. Raises `UsageError` where none has."""
    spec = recipe.reply
    assert spec.column is not None
    found = [
        Told(row, reply.strip(), dict(zip(spec.fields, values, strict=True)))
        for row, (reply, *values) in rows_with(recipe.data, split, (spec.column, *spec.fields))
    ]
    if not any(each.reply for each in found):
        raise UsageError(f"reply.column: {spec.column!r}: is empty in all rows of data.{split}")
    return found


def make(
    recipe: Recipe, classifier: Classifier, train: Sequence[Told], validation: Sequence[Told], decoder: Path | None
) -> Made:
    """The replies of a classifier, chosen on validation rows.

    Raises `JobError` where there is no template, or no threshold is right often enough.
    """
    templates, source, figures = _templates(recipe, train, validation, decoder)
    predictions = classifier.predict([input_of(each.row) for each in validation])
    replies = Replies(templates, _threshold(recipe, templates, predictions, validation))
    said = [Answer(each["label"], each["score"]) for each in predictions]
    figures |= judged(replies, said, [each.row.label for each in validation], validation)
    return Made(replies, source, figures)


def judged(
    replies: Replies, answers: Sequence[Answer], labels: Sequence[str], asked: Sequence[Told]
) -> dict[str, float]:
    """Share of messages that are handed over, share of the others whose class is right, placeholders left open.

    A placeholder that is no column of the rows counts as given.
    """
    handed = right = still_open = 0
    for answer, label, each in zip(answers, labels, asked, strict=True):
        reply = replies.reply({"label": answer.text, "score": answer.score or 0.0}, _given(replies.templates, each))
        handed += reply["handover"]
        right += not reply["handover"] and answer.text == label
        still_open += bool(PLACEHOLDER.search(reply["text"]))
    answered = len(labels) - handed
    figures = {HANDED_OVER: handed / len(labels), OPEN: float(still_open)}
    return figures | ({ANSWERED_RIGHT: right / answered} if answered else {})


def of_test_rows(recipe: Recipe, folder: Path) -> KindTest:
    """What the replies to the test rows come to, by their placeholders and the values of their columns.

    Raises `UsageError` where the test rows lack a column of values that templates ask for.
    """
    replies = read_replies(folder, read_bundle(folder))
    columns = replies.templates.fields
    asked = [
        Told(row, "", dict(zip(columns, values, strict=True)))
        for row, values in rows_with(recipe.data, "test", columns)
    ]

    def judge(answers: Sequence[Answer]) -> tuple[dict[str, float], str]:
        figures = judged(replies, answers, [each.row.label for each in asked], asked)
        words = f"Of {len(asked):,} test messages {figures[HANDED_OVER]:.1%} are handed over."
        if (right := figures.get(ANSWERED_RIGHT)) is not None:
            words += f" {right:.1%} of the answered ones have the right class"
            wanted = recipe.reply.min_right
            words += f", less than reply.min_right={wanted:g}." if right < wanted else "."
        return figures, words

    return KindTest(digest_json([[each.values for each in asked], recipe.reply.min_right]), judge)


def smoke(uri: str, folder: Path, bundle: Bundle) -> None:
    """Ask one message through the runtime that will serve: it is answered or handed over with a reason."""
    (reply,) = load_reply(folder).predict([(SMOKE, SMOKE) if bundle.pairs else SMOKE])
    sound = reply["intent"] in bundle.labels and 0 < reply["score"] <= 1
    if not sound or bool(reply["text"]) == reply["handover"]:
        raise JobError(
            f"{uri}: not deployed: the smoke request was answered {reply['intent']!r} {reply['score']} with "
            f"{len(reply['text'])} characters, handover {reply['handover']}"
        )


def _templates(
    recipe: Recipe, train: Sequence[Told], validation: Sequence[Told], decoder: Path | None
) -> tuple[Templates, str, dict[str, float]]:
    """(templates, their source, figures of each source that was asked)."""
    messages = [each.message for each in train if each.reply]
    sources: dict[str, Sequence[Message]] = {}
    if recipe.reply.source in ("template", "auto"):
        sources["template"] = messages
    if decoder is not None:
        sources["decoder"] = _written(recipe.reply, decoder, train)
    found = {name: learn(each, recipe.reply.fields) for name, each in sources.items()}
    scores = {name: _score(each, validation) for name, each in found.items() if each.templates}
    if not scores:
        raise JobError(
            f"reply.column: {recipe.reply.column!r}: no reply can be a template: all say numbers of their own message, "
            "or have braces that are no placeholder; name the columns of such values in reply.fields"
        )
    best = max(scores, key=lambda name: scores[name][DECIDES])
    for name, each in scores.items():
        chosen = "chosen" if name == best else "not chosen"
        figures = ", ".join(f"{metric} {value:.2f}" for metric, value in each.items())
        log.info("replies of source %s: %s on validation rows: %s", name, figures, chosen)
    if without := {each.row.label for each in train} - found[best].templates.keys():
        log.warning("%d classes have no reply that can be a template: their messages are handed over", len(without))
    told_figures = {f"reply_{name}_{metric}": value for name, each in scores.items() for metric, value in each.items()}
    return found[best], best, told_figures | {f"reply_{metric}": value for metric, value in scores[best].items()}


def _score(templates: Templates, validation: Sequence[Told]) -> dict[str, float]:
    """Metrics of the templates of the rows' own classes against the replies of validation rows, 0 to 100."""
    with_reply = [each for each in validation if each.reply]
    scored = with_reply[:: -(-len(with_reply) // MOST_SCORED)]
    texts = [_reply_text(templates.templates.get(each.row.label, []), each.values) for each in scored]
    return named(GENERATE.score)(texts, [each.row._replace(label=each.reply, slots=()) for each in scored])


def _reply_text(known: Sequence[str], values: Mapping[str, str]) -> str:
    """The template that a message gets, with those of its placeholders left open that are no column of the rows."""
    given = {name: value for name, value in values.items() if value.strip()}
    for template in known:
        open_ones = {name: f"{{{{{name}}}}}" for name in names(template) if name not in values}
        if missing(template, open_ones | given) is None:
            return fill(template, open_ones | given)
    return ""


def _given(templates: Templates, asked: Told) -> dict[str, str]:
    """What a request would give for a row: values of its columns, and of each other placeholder its name."""
    others = {name for several in templates.templates.values() for each in several for name in names(each)}
    return {name: name for name in others - set(templates.fields)} | {
        name: value for name, value in asked.values.items() if value.strip()
    }


def _threshold(
    recipe: Recipe, templates: Templates, predictions: Sequence[Prediction], validation: Sequence[Told]
) -> float:
    """Raises `JobError`."""
    import numpy as np

    certain = Replies(templates, 0.0)
    answered = [
        (prediction["score"], prediction["label"] == each.row.label)
        for prediction, each in zip(predictions, validation, strict=True)
        if not certain.reply(prediction, _given(templates, each))["handover"]
    ]
    score_N, right_N = np.array([each for each, _ in answered]), np.array([each for _, each in answered], bool)
    spec, margin = recipe.reply, recipe.budget.margin
    threshold = lowest_safe_threshold(score_N, right_N, spec.min_right, margin)
    if threshold is None:
        share = f"{right_N.mean():.1%}" if len(answered) else "none"
        raise JobError(
            f"reply.min_right: {spec.min_right:g}: at no threshold so many of the answered validation rows have the "
            f"right class with budget.margin={margin:g} standard errors to spare ({share} of {len(answered)} that "
            "could be answered); ask for less, or give more validation rows"
        )
    return threshold


def _written(spec: ReplySpec, decoder: Path, train: Sequence[Told]) -> list[Message]:
    """Replies of the decoder to messages of each class, evenly out of its training rows; those with faults left out."""
    by_intent: defaultdict[str, list[Told]] = defaultdict(list)
    for each in train:
        by_intent[each.row.label].append(each)
    asked = [
        each[place * len(each) // count]
        for each in by_intent.values()
        for count in [min(spec.messages, len(each))]
        for place in range(count)
    ]
    generator = load_generator(decoder)
    if generator.bundle.pairs != (asked[0].row.pair is not None):
        raise UsageError(f"reply.decoder: {decoder}: it reads {'pairs' if generator.bundle.pairs else 'single texts'}")
    log.info("the decoder replies to %d messages of %d classes", len(asked), len(by_intent))
    completions: Any = generator.predict([input_of(each.row) for each in asked])
    return [
        each.message._replace(reply=written["text"].strip())
        for each, written in zip(asked, completions, strict=True)
        if written["text"].strip() and not written.get("faults")
    ]
