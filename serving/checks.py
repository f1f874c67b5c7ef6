"""Whether a written text may go out: what it says of what was given, and how.

What training answers taught (`Wording`) and what the recipe asks (`ChecksSpec`) make a file of the bundle. A fault is
a word of `FAULTS`; its reason never repeats a customer's text.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from configs.schema.checks import ChecksSpec
from serving import units
from serving.bundle import CHECKS, BundleError
from serving.inputs import Slots

GRAM = 3  # terms in a row, for repetition
FAULTS = {
    "unsaid": "a value that was given is not said",
    "number": "a number is said that was not given",
    "unit": "a number is said with another unit than the given one",
    "value": "a value is said that was not given",
    "name": "a name is said that was not given",
    "spelling": "a name is not written as it should be",
    "blocked": "a blocked word is said",
    "repetition": "the text repeats itself",
    "length": "the text is shorter or longer than such texts are",
}
UNSAYABLE = frozenset({"true", "false", "yes", "no", "none", "dontcare", "dont_care", "?", ""})
_TERM = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d]+")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_SENTENCE_END = re.compile(r"[.!?:\n][\"')\]]*\s*$")
_NAME = re.compile(r"\w*(?:[^\W\d_]\w*\d|\d\w*[^\W\d_]|[^\W\d_])[\w-]*")


def reason_of(faults: Sequence[str]) -> str | None:
    """Why a text is held back, in words; None of a text without faults."""
    return "; ".join(FAULTS[each] for each in faults) or None


class Wording(BaseModel):
    """What the training answers of a task taught; texts are folded, see `serving.units`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attributes: list[str] = Field(default_factory=list, description="names of all attributes")
    said: list[str] = Field(default_factory=list, description="attributes whose values the answers say")
    spelled: list[str] = Field(default_factory=list, description="of these, those whose capital letters they keep")
    values: list[str] = Field(default_factory=list, description="values of several words, of any attribute")
    units: list[str] = Field(default_factory=list, description="words that follow a number in values")
    numbers: list[str] = Field(default_factory=list, description="numbers that answers say though nothing gives them")
    names: list[str] = Field(default_factory=list, description="names that answers say though nothing gives them")
    min_words: int = Field(default=0, description="of nearly all answers")
    max_words: int = Field(default=1_000_000, description="of nearly all answers")
    max_repeated: float = Field(default=1.0, description="of nearly all answers")


class Rules(BaseModel):
    """`checks.json` of a bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    asked: ChecksSpec
    wording: Wording


class Checks:
    """The faults of texts."""

    def __init__(self, rules: Rules) -> None:
        self.asked = rules.asked
        self._wording = rules.wording
        self._values = {spaced_terms(value) for value in rules.wording.values}
        self._longest = max((value.count(" ") - 1 for value in self._values), default=0)
        self._said, self._spelled = set(rules.wording.said), set(rules.wording.spelled)
        names = "|".join(map(re.escape, sorted(rules.wording.attributes, key=len, reverse=True)))
        self._attribute = re.compile(rf"(?:^|; |\n)(?P<name>{names}): ") if names else None
        self._blocked = [spaced_terms(word) for word in rules.asked.blocked]

    def faults(self, text: str, prompt: str) -> list[str]:
        """Keys of `FAULTS`, none of them twice; empty where the text may go out. `prompt`: what it is written of."""
        slots = self.slots(prompt)
        found = [
            *(["unsaid"] if self.asked.said and self._leaves_out(text, slots) else []),
            *(self._invented(text, prompt) if self.asked.given else []),
            *(["spelling"] if self._misspells(text, slots) else []),
            *(["blocked"] if any(word in spaced_terms(text) for word in self._blocked) else []),
        ]
        terms, asked, usual = units.letters(text), self.asked, self._wording
        if repeated(terms) > _either(asked.max_repeated, usual.max_repeated):
            found.append("repetition")
        if not _either(asked.min_words, usual.min_words) <= len(terms) <= _either(asked.max_words, usual.max_words):
            found.append("length")
        return found

    def slots(self, prompt: str) -> Slots:
        """The attributes of a prompt, as `serving.inputs.worded` wrote them."""
        found = list(self._attribute.finditer(prompt)) if self._attribute else []
        ends = [*(match.start() for match in found), len(prompt)][1:]
        return tuple((match["name"], prompt[match.end() : end].strip()) for match, end in zip(found, ends, strict=True))

    def _leaves_out(self, text: str, slots: Slots) -> bool:
        spaced = spaced_terms(text)
        return any(name in self._said and is_sayable(value) and not says(spaced, value) for name, value in slots)

    def _invented(self, text: str, read: str) -> Iterator[str]:
        if numbers(text) - numbers(read) - set(self._wording.numbers):
            yield "number"
        if _other_units(text, read, self._wording.units):
            yield "unit"
        spaced = spaced_terms(read)
        if any(value not in spaced for value in _runs(_terms(text), self._longest) & self._values):
            yield "value"
        if new_names(text, read) - set(self._wording.names):
            yield "name"

    def _misspells(self, text: str, slots: Slots) -> bool:
        exact = [value for name, value in slots if name in self._spelled] if self.asked.spelled else []
        return any(misspelled(text, name) for name in (*exact, *self.asked.brands))


def read_checks(folder: Path) -> Checks:
    """The checks of a bundle's folder. Raises `BundleError` where their file is wrong."""
    try:
        return Checks(Rules.model_validate_json((folder / CHECKS).read_bytes()))
    except ValidationError as error:
        first = error.errors()[0]
        raise BundleError(f"{folder / CHECKS}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def is_sayable(value: str) -> bool:
    """Whether a value is a text that an answer could say; the others stand for a whole sentence."""
    return value.lower() not in UNSAYABLE and bool(_terms(value))


def has_several_terms(value: str) -> bool:
    """Whether a value has several terms, so that no text says it by chance."""
    return len(_terms(value)) > 1


def says(spaced: str, value: str) -> bool:
    """Whether `spaced`, the terms of a text (`spaced_terms`), holds a value as it is or in the plural."""
    wanted = spaced_terms(value)
    return wanted in spaced or f"{wanted.rstrip()}s " in spaced


def numbers(text: str) -> set[str]:
    """The numbers in a text: 1,299 is 1299, and 2.50 is 2.5."""
    return {term for term in _terms(text) if term[0].isdigit()}


def names(text: str) -> set[str]:
    """Folded words with a capital letter that begin no sentence, and words of letters and digits, such as XZ500."""
    found, text = set[str](), units.apart(text)
    for match in _NAME.finditer(text):
        word = match.group()
        mixed = any(map(str.isdigit, word)) or any(map(str.isupper, word[1:]))
        starts = not text[: match.start()].strip() or _SENTENCE_END.search(text[: match.start()])
        if (mixed and not word.isupper()) or (any(map(str.isupper, word)) and not starts):
            found.add(units.folded(word))
    return found


def repeated(terms: Sequence[str]) -> float:
    """Share of the strings of `GRAM` terms that stood before."""
    grams = [tuple(terms[start : start + GRAM]) for start in range(len(terms) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def misspelled(text: str, name: str) -> bool:
    """Whether a text says a name in other capital letters; always False for names without any."""
    if name == name.lower():
        return False
    found = re.findall(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE)
    return any(each != name for each in found)


def new_names(text: str, read: str) -> set[str]:
    """The names in a text that are not among what was `read`."""
    spaced = spaced_terms(read)
    return {name for name in names(text) if spaced_terms(name) not in spaced}


def measures(text: str) -> Iterator[tuple[str, str]]:
    """Numbers of a text, each with the word after it, '' where there is none."""
    terms = [*_terms(text), ""]
    for number, word in itertools.pairwise(terms):
        if number[:1].isdigit():
            yield number, "" if word[:1].isdigit() else word


def _other_units(text: str, read: str, known: Sequence[str]) -> bool:
    """Whether a given number, which has a unit wherever it was given, is said with a unit of another kind."""
    units_of: dict[str, set[str]] = {}
    for number, word in measures(read):
        units_of.setdefault(number, set()).add(word if word in known else "")
    for number, word in measures(text):
        own = units_of.get(number, {""})
        if "" not in own and word in known and not any(_alike(word, each) for each in own):
            return True
    return False


def _alike(one: str, other: str) -> bool:
    """Whether two units are one, perhaps in the plural, or a short form of the other."""
    return one.startswith(other) or other.startswith(one)


def _terms(text: str) -> list[str]:
    return [_short(term) for term in _TERM.findall(_THOUSANDS.sub("", units.apart(units.folded(text))))]


def _short(term: str) -> str:
    return term.rstrip("0").rstrip(".") if term[0].isdigit() and "." in term and term.count(".") == 1 else term


def spaced_terms(text: str) -> str:
    """The terms of a text, folded, with a space around each, so that values are found as substrings."""
    return f" {' '.join(_terms(text))} "


def _runs(terms: Sequence[str], longest: int) -> set[str]:
    """All runs of 1 to `longest` terms, as `spaced_terms` writes them."""
    return {
        f" {' '.join(terms[start : start + length])} "
        for length in range(1, longest + 1)
        for start in range(len(terms) - length + 1)
    }


def _either(asked: float | None, usual: float) -> float:
    return usual if asked is None else asked
