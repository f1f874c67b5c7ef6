"""Texts that stand in the rows more than once: in two splits, or with two labels.

Rows are compared by hashes, and named by their lines. Two texts are the same where their letters and digits are the
same (Unicode NFKC, lower case, all else left out); two pairs, where both texts are. A text without any of these is
compared by its signs.
"""

from __future__ import annotations

import functools
import hashlib
import unicodedata
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from serving import units

if TYPE_CHECKING:
    import numpy as np

ORDER = ("train", "validation", "unlabelled", "test")  # a split is compared with itself and those before it
HASHES = "hashes.parquet"
SHOWN = 5  # lines that a message names
SELECTORS = range(0xFE00, 0xFE10)  # variation selectors: how a sign is drawn
NOTHING = 0  # hash of no label


@dataclass
class Hashes:
    """64 bits of SHA-256 for each row of a split, in order.

    Any two of 10^6 different texts share a hash with a chance of 3 in 10^8. `left_out` are the lines of rows that
    `data.on_leak` took away; these rows have no hashes here.
    """

    texts: Sequence[int] = field(default_factory=lambda: array("Q"))  # of the letters and digits
    written: Sequence[int] = field(default_factory=lambda: array("Q"))  # of the texts, letter for letter
    labels: Sequence[int] = field(default_factory=lambda: array("Q"))  # `NOTHING` where there is none
    lines: Sequence[int] = field(default_factory=lambda: array("q"))
    left_out: Sequence[int] = field(default_factory=lambda: array("q"))
    unit: str = "rows"  # unit of `lines`: lines or rows

    def add(self, text: str, pair: str | None, label: str, unit: str, line: int) -> None:
        """Append one row; an empty label means no label."""
        texts, written, labels, lines = cast(list[array], [self.texts, self.written, self.labels, self.lines])
        texts.append(same_text(text, pair))
        written.append(_hash(text, pair))
        labels.append(_label_hash(label))
        lines.append(line)
        self.unit = unit

    def leave_out(self, unit: str, line: int) -> None:
        """Note a row that is left out of training."""
        cast(array, self.left_out).append(line)
        self.unit = unit

    def __len__(self) -> int:
        return len(self.texts)


class Finding(NamedTuple):
    """Texts that the rows of one split share with another split, or with earlier rows of their own."""

    split: str
    other: str  # equal to `split` where rows of one split are compared
    rows: int  # of `split`
    same: int  # of these, rows whose text a row of `other` has, too; an earlier row where `other` is `split`
    written_alike: int  # of these, rows with the text letter for letter
    contradicting: int  # rows whose text has another label in `other`
    unit: str  # unit of the lines: lines or rows
    same_lines: list[int]  # the first `SHOWN` lines, here and below
    contradicting_lines: list[int]

    @property
    def is_leak(self) -> bool:
        """Whether the model learns from rows that it is judged by; unlabelled rows may repeat training rows."""
        return self.same > 0 and self.split != self.other and (self.split, self.other) != ("unlabelled", "train")

    @property
    def same_words(self) -> str:
        """'2 of 9 rows of data.validation have the text of a row of data.train (1 letter for letter): lines 4, 7'."""
        whose = "an earlier row" if self.split == self.other else f"a row of data.{self.other}"
        lines = _lines(self.unit, self.same_lines, self.same)
        counts = f"{self.same} of {self.rows} rows of data.{self.split}"
        return f"{counts} have the text of {whose} ({self.written_alike} letter for letter): {lines}"

    @property
    def contradicting_words(self) -> str:
        """As `same_words`, for texts with two labels."""
        lines = _lines(self.unit, self.contradicting_lines, self.contradicting)
        counts = f"{self.contradicting} of {self.rows} rows of data.{self.split}"
        return f"{counts} have a text that has another label in data.{self.other}: {lines}"


def normal(text: str) -> str:
    """The letters and digits of a text in lower case; its signs where it has none."""
    if text.isascii():  # several times as fast as the general way below
        return text.lower().encode().translate(None, _ASCII_SIGNS).decode() or "".join(text.split())
    whole = units.folded(text)
    return whole.translate(_LETTERS) or "".join(whole.split())


def same_text(text: str, pair: str | None) -> int:
    """The hash that two rows share where their letters and digits are the same."""
    return _hash(normal(text), None if pair is None else normal(pair))


def findings(seen: Mapping[Any, Hashes], split: str, labelled: bool) -> list[Finding]:
    """Texts that the rows of `split` share, with one another and with every split before it in `ORDER`.

    `labelled`: labels are classes, so that a text with two labels is a contradiction.
    """
    import numpy as np

    mine, shared = seen[split], []
    for other in ORDER[: ORDER.index(split) + 1]:
        if (theirs := seen.get(other)) is None:
            continue
        texts, written = (np.asarray(each, np.uint64) for each in (mine.texts, mine.written))
        if other == split:
            same, alike = _repeats(texts), _repeats(written)
        else:
            same, alike = np.isin(texts, np.asarray(theirs.texts, np.uint64)), np.isin(written, theirs.written)
        against = _contradicting(mine, theirs) if labelled else np.zeros(len(mine), bool)
        lines = np.asarray(mine.lines, np.int64)
        first, first_against = (lines[mask][:SHOWN].tolist() for mask in (same, against))
        count, letters, contradicting = (int(mask.sum()) for mask in (same, same & alike, against))
        shared.append(Finding(split, other, len(mine), count, letters, contradicting, mine.unit, first, first_against))
    return shared


def totals(found: Sequence[Finding]) -> dict[str, float]:
    """Metrics `leaked_rows` and `contradicting_rows` of the findings."""
    return {
        "leaked_rows": sum(each.same for each in found if each.is_leak),
        "contradicting_rows": sum(each.contradicting for each in found),
    }


def write(file: Path, seen: Mapping[str, Hashes]) -> None:
    """Keep the hashes of some splits, without their lines."""
    import numpy as np
    import pyarrow
    import pyarrow.parquet

    columns: dict[str, Any] = {"split": [name for name, each in seen.items() for _ in range(len(each))]}
    for name in ("texts", "written", "labels"):
        parts = [np.asarray(getattr(each, name), np.uint64) for each in seen.values()]
        columns[name] = np.concatenate(parts) if parts else np.zeros(0, np.uint64)
    columns["split"] = pyarrow.array(columns["split"], pyarrow.string()).dictionary_encode()
    pyarrow.parquet.write_table(pyarrow.table(columns), file)


def read(file: Path) -> dict[str, Hashes]:
    """The hashes of each split that `write` kept."""
    import numpy as np
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(file)
    names_N, by_split = np.array(table["split"].to_pylist()), {}
    for split in dict.fromkeys(names_N.tolist()):
        rows = table.filter(pyarrow.array(names_N == split))
        by_split[split] = Hashes(*(rows[name].to_numpy() for name in ("texts", "written", "labels")))
    return by_split


def _repeats(values: np.ndarray) -> np.ndarray:
    """[N] bool: whether each of the values [N] occurred before."""
    import numpy as np

    again = np.ones(len(values), bool)
    again[np.unique(values, return_index=True)[1]] = False
    return again


def _contradicting(rows: Hashes, others: Hashes) -> np.ndarray:
    """[N] bool: whether the text of each of the `rows` has another label among `others`."""
    import numpy as np

    count = len(rows)
    texts, text = np.unique(np.concatenate([rows.texts, others.texts]).astype(np.uint64), return_inverse=True)
    labels, label = np.unique(np.concatenate([rows.labels, others.labels]).astype(np.uint64), return_inverse=True)
    known = labels[label] != NOTHING
    pairs = text * len(labels) + label
    said = np.unique(pairs[count:][known[count:]])  # each label that a text has among the others
    kinds = np.bincount(said // max(1, len(labels)), minlength=len(texts))[text[:count]]
    return known[:count] & (kinds > np.isin(pairs[:count], said))


def _hash(text: str, pair: str | None) -> int:
    parts = f"{len(text)} {text}{pair or ''}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(parts).digest()[:8], "little")


@functools.lru_cache(maxsize=1000)
def _label_hash(label: str) -> int:
    return _hash(label, None) if label else NOTHING


def _lines(unit: str, lines: Sequence[int], count: int) -> str:
    return f"{unit} {', '.join(map(str, lines))}{', ...' if count > len(lines) else ''}"


class _Letters(dict[int, int | None]):
    """Table for `str.translate`, filled as characters are met: letters, digits and their marks stay."""

    def __missing__(self, code: int) -> int | None:
        kept = chr(code).isalnum() or (unicodedata.category(chr(code))[0] in "NM" and code not in SELECTORS)
        self[code] = code if kept else None
        return self[code]


_LETTERS = _Letters()
_ASCII_SIGNS = bytes(code for code in range(128) if not chr(code).isalnum())
