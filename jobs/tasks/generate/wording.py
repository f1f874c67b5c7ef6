"""What training answers teach of a text that may go out: see `serving.checks`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from jobs.data.source import Row
from serving import checks, units
from serving.checks import Wording
from serving.inputs import Slots, prompt

SAID = 0.95  # share of the answers with an attribute that say its value, so that every text must
SPELLED = 0.99  # of those that say it, and keep its capital letters
USUAL = 0.001  # share of the answers that may be shorter, or longer, or repeat themselves more
OFTEN = 2  # answers that say a number or a name of their own accord


class Learner:
    """Counts over training answers, which may be many."""

    def __init__(self) -> None:
        self._given, self._said = Counter[str](), Counter[str]()  # by attribute: values, and those that are said
        self._cased, self._kept = Counter[str](), Counter[str]()  # of these: with capital letters, which are kept
        self._attributes, self._values, self._units = set[str](), set[str](), set[str]()
        self._numbers, self._names = Counter[str](), Counter[str]()
        self._lengths, self._repeats = list[int](), list[float]()

    def see(self, row: Row) -> None:
        """Take the answer of one training row in."""
        self._see_values(row.label, row.slots)
        read = prompt(row.text, row.pair)
        self._numbers.update(checks.numbers(row.label) - checks.numbers(read))
        self._names.update(checks.new_names(row.label, read))
        terms = units.letters(row.label)
        self._lengths.append(len(terms))
        self._repeats.append(checks.repeated(terms))

    def learned(self) -> str:
        """A `Wording` as JSON."""
        return self.wording().model_dump_json()

    def wording(self) -> Wording:
        """What the answers so far teach."""
        return Wording(
            attributes=sorted(self._attributes),
            said=sorted(name for name, count in self._given.items() if self._said[name] >= SAID * count),
            spelled=sorted(name for name, count in self._cased.items() if self._kept[name] >= SPELLED * count),
            values=sorted(self._values),
            units=sorted(self._units),
            numbers=sorted(number for number, count in self._numbers.items() if count >= OFTEN),
            names=sorted(name for name, count in self._names.items() if count >= OFTEN),
            min_words=int(_quantile(self._lengths, USUAL)),
            max_words=int(_quantile(self._lengths, 1 - USUAL)),
            max_repeated=_quantile(self._repeats, 1 - USUAL),
        )

    def _see_values(self, answer: str, slots: Slots) -> None:
        spaced = checks.spaced_terms(answer)
        for name, value in slots:
            self._attributes.add(name)
            if checks.has_several_terms(value):
                self._values.add(value)
            self._units.update(word for _, word in checks.measures(value) if word)
            if not checks.is_sayable(value):
                continue
            says = checks.says(spaced, value)
            self._given[name] += 1
            self._said[name] += says
            if says and value != value.lower():
                self._cased[name] += 1
                self._kept[name] += not checks.misspelled(answer, value)


def _quantile(numbers: Sequence[float], share: float) -> float:
    """The number that stands at `share` of all in order; 0 without numbers."""
    ordered = sorted(numbers)
    return ordered[round(share * (len(ordered) - 1))] if ordered else 0.0
