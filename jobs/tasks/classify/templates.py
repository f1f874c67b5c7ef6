"""Templates of replies: of each class a central reply, with placeholders for what replies say of their own message."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple

from jobs.measure.grams import WORDS, fit_grams
from serving import checks
from serving.reply import PLACEHOLDER, Part, Templates, names, parts

WORD = re.compile(r"\w+")
UNFILLED = re.compile(r"[{}]|\[[^\]]*\](?!\()")  # braces and brackets that look like a placeholder; [a](link) is none
CUSTOMERS_DIGITS = 3  # from which on a number that messages say is a customer's: an amount, an order
SAID_BY_OTHERS = 0.02  # share of the replies to other messages of a class from which on a value is a word like others


class Message(NamedTuple):
    """A message with its class and a reply to it."""

    text: str
    intent: str
    reply: str
    values: Mapping[str, str]  # what the message gives, by column


def learn(messages: Sequence[Message], fields: Sequence[str]) -> Templates:
    """The templates of each class that has a reply which can be one.

    The first is the most central reply. Where it says a value of its message, the most central one that says none
    stands after it, for messages that give none.
    """
    by_intent: defaultdict[str, list[Message]] = defaultdict(list)
    for each in messages:
        by_intent[each.intent].append(each)
    found = {intent: _central_ones(each, set(fields)) for intent, each in sorted(by_intent.items())}
    return Templates(fields=list(fields), templates={intent: each for intent, each in found.items() if each})


def template_of(message: Message, words: Set[str] = frozenset(), peculiar: Set[str] = frozenset()) -> str | None:
    """The reply with placeholders in place of the values of its message; None where it can be no template.

    None are replies that say a number of their message, whole or in part, or a `peculiar` one, which is no placeholder;
    a value that is among `words`, which are said to other messages, too; or braces and brackets around something else.
    """
    given = [(name, value) for name, value in message.values.items() if value.strip()]
    pieces: list[Part] = list(parts(message.reply))
    for name, value in sorted(given, key=lambda each: -len(each[1])):
        if value.strip().lower() in words and any(
            _standing(value).search(each.text) for each in pieces if not each.is_name
        ):
            return None
        pieces = [part for each in pieces for part in _split(each, name, value)]
    said = " ".join(each.text for each in pieces if not each.is_name)
    if UNFILLED.search(said) or not said.strip():
        return None
    own, numbers = _numbers(f"{message.text} {' '.join(message.values.values())}"), _numbers(said)
    if numbers & peculiar or any(_akin(number, other) for number in numbers for other in own):
        return None
    return "".join(f"{{{{{each.text}}}}}" if each.is_name else each.text for each in pieces).strip()


def central(texts: Sequence[str], usable: Sequence[bool]) -> int | None:
    """Place of the usable text that is most like all texts together; None where none is usable.

    The medoid by the cosine of TF-IDF vectors of words and word pairs. A text that stands there often counts as often,
    so the most frequent of different texts comes first.
    """
    import numpy as np

    usable_N = np.array(usable, bool)
    if not usable_N.any():
        return None
    grams = fit_grams(texts, WORDS, 1)
    if grams is None:
        return int(usable_N.argmax())
    features_NG: Any = grams.features_NG  # rows of length 1
    likeness_N = np.asarray(features_NG @ np.asarray(features_NG.sum(axis=0)).T).ravel()
    return int(np.where(usable_N, likeness_N.round(9), -1.0).argmax())


def words_like_others(messages: Iterable[Message]) -> set[str]:
    """Values, in lower case, that are said to messages which do not give them, such as the "free" of "feel free"."""
    messages = list(messages)
    given = [{value.strip().lower() for value in each.values.values() if value.strip()} for each in messages]
    replies = [each.reply.lower() for each in messages]
    saying: defaultdict[str, list[int]] = defaultdict(list)  # places of the replies with a word
    for place, reply in enumerate(replies):
        for word in set(WORD.findall(reply)):
            saying[word].append(place)
    found = set()
    for value, count in Counter(value for each in given for value in each).items():
        standing, first = _standing(value), WORD.search(value)
        places = saying[first[0]] if first else range(len(replies))
        strange = sum(value not in given[place] and bool(standing.search(replies[place])) for place in places)
        if strange > SAID_BY_OTHERS * max(1, len(messages) - count):
            found.add(value)
    return found


def peculiar_numbers(messages: Iterable[Message]) -> set[str]:
    """Numbers that a single one of several different replies says, and long ones that messages say."""
    messages = list(messages)
    replies = {each.reply for each in messages}
    saying = Counter(number for reply in replies for number in _numbers(reply))
    alone = {number for number, count in saying.items() if count == 1} if len(replies) > 1 else set()
    return alone | {number for each in messages for number in _numbers(each.text) if len(number) >= CUSTOMERS_DIGITS}


def _central_ones(messages: Sequence[Message], fields: Set[str]) -> list[str]:
    """Of one class."""
    words = words_like_others(messages)
    peculiar = peculiar_numbers(messages)
    templates = [template_of(each, words, peculiar) for each in messages]
    texts = [template or each.reply for template, each in zip(templates, messages, strict=True)]
    of_message = [fields & set(names(each)) for each in texts]
    first = central(texts, [each is not None for each in templates])
    if first is None:
        return []
    plain = [each is not None and not own for each, own in zip(templates, of_message, strict=True)]
    second = central(texts, plain) if of_message[first] else None
    return [texts[place] for place in (first, second) if place is not None]


def _split(part: Part, name: str, value: str) -> list[Part]:
    """A part, with a placeholder wherever it says the value."""
    if part.is_name:
        return [part]
    found: list[Part] = []
    for piece in _standing(value).split(part.text):
        found += [Part(name, True), Part(piece, False)]
    return [each for each in found[1:] if each.text]


def _standing(value: str) -> re.Pattern[str]:
    """The value as a word or words of its own, in any letter case."""
    return re.compile(rf"(?<!\w){re.escape(value.strip())}(?!\w)", re.IGNORECASE)


def _akin(one: str, other: str) -> bool:
    """Whether two numbers are one, or the longer begins with the shorter: people leave out digits, 12 for 1200."""
    short, long = sorted((one, other), key=len)
    return short == long or (len(short) > 1 and long.startswith(short))


def _numbers(text: str) -> set[str]:
    """The numbers in a text outside placeholders, without zeros in front."""
    return {each.lstrip("0") or "0" for each in checks.numbers(PLACEHOLDER.sub(" ", text))}
