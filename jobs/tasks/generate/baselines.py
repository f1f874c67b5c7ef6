"""Baselines of a generator, made of the training rows: the nearest row's text, and that with the request's values."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from configs.schema.data import DataSpec
from jobs.data.source import Row, rows
from jobs.measure.answers import Answer, Fitted, input_of
from jobs.measure.grams import STRINGS, WORDS, Grams, fit_grams
from serving import units
from serving.inputs import Input, Slots, joined

OPEN, CLOSE = "\ue000", "\ue001"  # around the name of an attribute in a template; private, so that no text has them


def fit_nearest(data: DataSpec) -> Fitted:
    """The completion of the training row whose prompt is nearest by TF-IDF, which every generator must beat."""
    train = list(rows(data, "train"))
    index = Index.of([joined(input_of(row)) for row in train])

    def predict(inputs: Sequence[Input]) -> list[Answer]:
        return [Answer(train[row].label) for row in index.nearest([joined(each) for each in inputs])]

    return Fitted(predict, sum(len(row.label.encode()) for row in train) + index.bytes)


def fit_template(data: DataSpec) -> Fitted:
    """The completion of the training row whose attributes are most like the request's, with the request's values.

    Rows are alike by the names of their attributes, and by those values that their text does not say, such as yes.
    A value that the request lacks stays as the row has it.
    """
    train = list(rows(data, "train"))
    read = reader({name for row in train for name, _ in row.slots})
    templates = [template(row) for row in train]
    said = [{name for name, _ in each.values} for each in templates]
    index = Index.of([_kind(input_of(row), names, read) for row, names in zip(train, said, strict=True)])
    sayable = set[str]().union(*said)

    def predict(inputs: Sequence[Input]) -> list[Answer]:
        found = index.nearest([_kind(each, sayable, read) for each in inputs])
        return [Answer(templates[row].filled(_slots(each, read))) for row, each in zip(found, inputs, strict=True)]

    return Fitted(predict, sum(each.bytes for each in templates) + index.bytes)


class Template(NamedTuple):
    """The text of a row, with places for the values that it says."""

    text: str
    values: dict[tuple[str, int], str]  # that the row says: by name, and which of the values of that name

    def filled(self, slots: Slots) -> str:
        """The text with the values of `slots`; one that they lack is that of the row."""
        text = self.text
        for (name, number), own in self.values.items():
            given = [value for other, value in slots if other == name]
            text = text.replace(_place(name, number), given[number] if number < len(given) else own)
        return text

    @property
    def bytes(self) -> int:
        """What it takes."""
        return len(self.text.encode()) + sum(len(value.encode()) for value in self.values.values())


def template(row: Row) -> Template:
    """The template of a training row: its longest values are looked for first, each as whole words."""
    values: dict[tuple[str, int], str] = {}
    for name, value in row.slots:
        values[name, sum(other == name for other, _ in values)] = value
    text, found = row.label, {}
    for place, value in sorted(values.items(), key=lambda each: -len(each[1])):
        if value and (spot := _spot(value).search(text)):
            text = text[: spot.start()] + _place(*place) + text[spot.end() :]
            found[place] = value
    return Template(text, found)


Read = Callable[[str], Slots]


def reader(names: Collection[str]) -> Read:
    """What finds attributes of these `names` in a text again: the reverse of `serving.inputs.worded`."""
    if not names:
        return lambda text: ()
    known = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    begins = re.compile(rf"(?:^|; )({known}): ")

    def read(text: str) -> Slots:
        parts = begins.split(text)
        return tuple(zip(parts[1::2], parts[2::2], strict=True))

    return read


def _parts(given: Input) -> list[str]:
    return [given] if isinstance(given, str) else [str(each) for each in given]


def _slots(given: Input, read: Read) -> Slots:
    return tuple(slot for text in _parts(given) for slot in read(text))


def _kind(given: Input, said: Collection[str], read: Read) -> str:
    """What templates are looked up by: names of attributes, with the values of those that are not `said`, and texts
    that hold no attributes."""
    words: list[str] = []
    for text in _parts(given):
        slots = read(text)
        words += [name if name in said else f"{name} {value}" for name, value in slots] if slots else [text]
    return " ; ".join(words)


def _place(name: str, number: int) -> str:
    return f"{OPEN}{name}{number}{CLOSE}"


def _spot(value: str) -> re.Pattern[str]:
    """Finds a value: no letter or digit stands beside it, but where a script has no spaces."""
    side = "" if units.has_characters(value) else r"\w"
    around = (rf"(?<!{side})", rf"(?!{side})") if side else ("", "")
    return re.compile(around[0] + re.escape(value) + around[1], re.IGNORECASE)


class Index(NamedTuple):
    """Texts that the nearest is looked for among, by TF-IDF.

    Texts without a known word are compared by their strings of characters, where there are such texts among these.
    """

    kinds: list[Grams]
    neighbours: list[Any]

    @classmethod
    def of(cls, texts: Sequence[str]) -> Index:
        """An index of these texts."""
        from sklearn.neighbors import NearestNeighbors

        kinds = [grams for grams in (fit_grams(texts, WORDS, 1),) if grams]
        if not kinds or not _known_N(kinds[0].features_NG).all():
            kinds += [grams for grams in (fit_grams(texts, STRINGS, 1),) if grams]
        return cls(kinds, [NearestNeighbors(n_neighbors=1, metric="cosine").fit(each.features_NG) for each in kinds])

    def nearest(self, texts: Sequence[str]) -> list[int]:
        """The number of the nearest of its texts to each of `texts`."""
        import numpy as np

        row_N, left_N = np.zeros(len(texts), int), np.ones(len(texts), bool)
        for grams, index in zip(self.kinds, self.neighbours, strict=True):
            features_NG: Any = grams.vectorizer.transform(texts)
            asked_N = left_N if grams is self.kinds[-1] else left_N & _known_N(features_NG)
            if asked_N.any():
                row_N[asked_N] = index.kneighbors(features_NG[asked_N], return_distance=False)[:, 0]
            left_N = left_N & ~asked_N
        return row_N.tolist()

    @property
    def bytes(self) -> int:
        """What it takes."""
        return sum(map(_bytes, self.kinds))


def _known_N(features_NG: Any) -> Any:
    """[N] bool: whether a text has a known gram."""
    return features_NG.getnnz(axis=1) > 0


def _bytes(grams: Grams) -> int:
    known = grams.features_NG
    arrays = (grams.vectorizer.idf_, known.data, known.indices, known.indptr)
    return sum(len(text.encode()) for text in grams.vectorizer.vocabulary_) + sum(each.nbytes for each in arrays)
