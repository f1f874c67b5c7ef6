"""Customer-service messages of an invented online shop: the demo data, made here as a fresh machine has none.

    rows = messages("train", seed=0)  # [{"text": "hi, where is my parcel?", "label": "where_is_my_order"}, ...]

The same seed gives the same rows everywhere: only random.random() is drawn, the one stream Python promises to keep.
"""

import itertools
import random
import re
from collections.abc import Iterator, Sequence
from typing import Literal, TypeVar

from jobs.data.shop_phrases import PHRASES
from jobs.data.shop_words import CLOSERS, CONTEXTS, OPENERS, SLOTS

Split = Literal["train", "validation", "test"]
T = TypeVar("T")

INTENTS: tuple[str, ...] = tuple(PHRASES)
ROWS: dict[Split, int] = {"train": 3400, "validation": 600, "test": 1000}

MIN_WORDS, MAX_WORDS = 5, 32  # about 5 to 40 tokens

MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"]
SIZES = ["XS", "S", "M", "L", "XL", "XXL", "36", "38", "40", "42", "44"]
PRODUCTS = ("garment", "device", "thing")  # the narrower kinds of an item; one message is about one product
SHORTHAND = (
    ("please", "pls"),
    ("your", "ur"),
    ("you", "u"),
    ("cannot", "cant"),
    ("I'm", "im"),
    ("I've", "ive"),
    ("can't", "cant"),
    ("don't", "dont"),
    ("isn't", "isnt"),
    ("I am", "im"),
    ("do not", "dont"),
    ("does not", "doesnt"),
    ("because", "cause"),
    ("tomorrow", "tmrw"),
)
NEIGHBOURS = {"a": "s", "e": "r", "i": "o", "n": "m", "o": "p", "r": "t", "s": "d", "t": "y", "l": "k", "u": "i"}


def messages(split: Split, seed: int = 0, rows: int | None = None) -> list[dict[str, str]]:
    """Rows {"text", "label"} of one split; fewer rows are the first of more, and each 25 rows hold each intent once."""
    if split not in ROWS:
        raise ValueError(f"split={split!r} is none of {', '.join(ROWS)}")
    wanted = ROWS[split] if rows is None else rows
    dice = Dice(f"shop/{split}/{seed}")
    drawn = {intent: distinct(intent, split, dice) for intent in INTENTS}
    made: list[dict[str, str]] = []
    while len(made) < wanted:
        turn = dice.shuffled(INTENTS)[: wanted - len(made)]
        made += [{"text": next(drawn[intent]), "label": intent} for intent in turn]
    return made


def distinct(intent: str, split: Split, dice: "Dice") -> Iterator[str]:
    """Messages of one intent, its phrasings in turn; no two have the same letters and digits."""
    seen: set[str] = set()
    phrasings = dice.shuffled(PHRASES[intent].phrasings(split))
    for turn in itertools.count():
        text = message(phrasings[turn % len(phrasings)], PHRASES[intent].about, split, dice)
        if MIN_WORDS <= len(text.split()) <= MAX_WORDS and letters(text) not in seen:
            seen.add(letters(text))
            yield text


def message(phrasing: str, about: str, split: Split, dice: "Dice") -> str:
    """One message: the request between greeting and small talk, then written the way people type."""
    values = slot_values(phrasing, split, dice)
    contexts = dice.shuffled(getattr(CONTEXTS[about], split))
    parts = [phrasing]
    if dice.chance(0.35):
        parts.insert(0, contexts[0])
    if dice.chance(0.2):
        parts.append(contexts[1])
    if dice.chance(0.35):
        parts.insert(0, dice.pick(getattr(OPENERS, split)))
    if dice.chance(0.25):
        parts.append(dice.pick(getattr(CLOSERS, split)))
    return typed([chosen(part, dice).format(**values) for part in parts], dice)


def chosen(phrasing: str, dice: "Dice") -> str:
    """The phrasing with one side of every `(a|b)`."""
    one_side = re.sub(r"\(([^()]*\|[^()]*)\)", lambda group: dice.pick(group[1].split("|")), phrasing)
    return " ".join(one_side.split())  # an empty side leaves two spaces


def slot_values(phrasing: str, split: Split, dice: "Dice") -> dict[str, str]:
    """A value for every slot; `item` is the product of this phrasing, `other` a different one."""
    values = {slot: dice.pick(getattr(words, split)) for slot, words in SLOTS.items()}
    product = next((kind for kind in PRODUCTS if f"{{{kind}}}" in phrasing), "item")
    values["item"] = values[product]
    values["other"] = dice.pick([word for word in getattr(SLOTS["item"], split) if word != values["item"]])
    first, second = dice.shuffled(SIZES)[:2]
    return values | {
        "size": first,
        "size2": second,
        "order": dice.pick(("{}", "{}", "#{}", "SC-{}")).format(dice.between(10_000, 9_999_999)),
        "price": price(8, 240, dice),
        "paid": price(8, 240, dice),
        "fee": price(3, 15, dice),
        "date": date(dice),
        "earlier": date(dice),
        "year": str(dice.between(2017, 2024)),
        "days": str(dice.between(2, 30)),
        "months": str(dice.between(4, 22)),
        "percent": str(dice.between(1, 8) * 5),
        "height": str(dice.between(150, 199)),
        "kilos": str(dice.between(48, 110)),
    }


def price(low: int, high: int, dice: "Dice") -> str:
    whole, cents = dice.between(low, high), dice.pick(("", ".50", ".90", ".95", ".99"))
    return dice.pick(("${}", "£{}", "{} euros", "€{}", "{} pounds")).format(f"{whole}{cents}")


def date(dice: "Dice") -> str:
    day, month = dice.between(1, 28), dice.pick(MONTHS)
    return dice.pick(
        (f"{day} {month}", f"{month} {day}", f"{day:02}/{MONTHS.index(month) + 1:02}", dice.pick(WEEKDAYS))
    )


def typed(sentences: list[str], dice: "Dice") -> str:
    """The sentences as one message: capitals and full stops or not, shorthand, slips of the fingers."""
    careless = dice.chance(0.4)
    gap = dice.pick((" ", ", ", ". ")) if careless else ". "
    text = sentences[0]
    for sentence in sentences[1:]:
        text += (" " if text.endswith("?") else gap) + sentence
    if not careless:
        text += "" if text.endswith("?") else dice.pick((".", ".", ".", ".", "!"))
        text = re.sub(r"(?:^|(?<=[.?!] ))[a-z]", lambda letter: letter[0].upper(), text)
    else:
        text = shortened(text, dice).lower() if dice.chance(0.8) else shortened(text, dice)
        text = text.replace("?", "") if dice.chance(0.5) else text
    for _ in range(dice.pick((0, 0, 0, 1, 2)) if careless else dice.pick((0, 0, 0, 0, 1))):
        text = mistyped(text, dice)
    return text


def shortened(text: str, dice: "Dice") -> str:
    for word, short in SHORTHAND:
        if dice.chance(0.35):
            text = re.sub(rf"\b{word}\b", short, text)
    return text


def mistyped(text: str, dice: "Dice") -> str:
    """One slip in one longer word: two letters swapped, one dropped, doubled or hit beside."""
    words = text.split(" ")
    places = [i for i, word in enumerate(words) if len(word) >= 5 and word.isalpha()]
    if not places:
        return text
    place = dice.pick(places)
    word, at = words[place], dice.between(1, len(words[place]) - 2)
    a, b = word[at], word[at + 1]
    slips = (b + a, b, a + a + b, NEIGHBOURS.get(a, a) + b)
    words[place] = word[:at] + dice.pick(slips) + word[at + 2 :]
    return " ".join(words)


def letters(text: str) -> str:
    """Letters and digits in lower case, by which two messages are the same."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


class Dice:
    """Draws from random.random() alone; random.choice and shuffle may change between Python versions."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed).random

    def chance(self, share: float) -> bool:
        return self.random() < share

    def between(self, low: int, high: int) -> int:
        return low + int(self.random() * (high - low + 1))

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.random() * len(options))]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        return sorted(options, key=lambda _: self.random())
