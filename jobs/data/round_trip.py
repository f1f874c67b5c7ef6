"""Whether a tokenizer gives back the texts that it was given: what it does not, no model can write."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from serving.inputs import unknown_id

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

SPECIAL = "the special token {} is left out"
UNKNOWN = "parts that it does not know are lost"
SPACES = "spaces are put in or left out"
CASE = "capital letters become small ones"
ACCENTS = "accents and other signs are changed"
OTHER = "other characters are changed"
SHOWN = 3  # causes that a message names


class Losses(NamedTuple):
    """How many of some texts come back changed, and why; the cause of a text is the first that applies."""

    rows: int
    changed: int
    causes: Counter[str]

    @property
    def share(self) -> float:
        """Share of the texts that come back changed."""
        return self.changed / max(1, self.rows)

    def __str__(self) -> str:
        """'2 of 9 (22.2%): spaces are put in or left out (2)'."""
        causes = "; ".join(f"{cause} ({count})" for cause, count in self.causes.most_common(SHOWN))
        return f"{self.changed} of {self.rows} ({self.share:.1%}): {causes}"


def losses(tokenizer: Tokenizer, texts: Sequence[str], encodings: Sequence[Encoding]) -> Losses:
    """Compare `texts` with what is read of their `encodings`, as answers are read when a model is served."""
    unknown = unknown_id(tokenizer)
    special = {number: each.content for number, each in tokenizer.get_added_tokens_decoder().items() if each.special}
    causes: Counter[str] = Counter()
    read = tokenizer.decode_batch([each.ids for each in encodings])
    for text, back, encoding in zip(texts, read, encodings, strict=True):
        if text != back:
            causes[_cause(text, back, encoding.ids, unknown, special)] += 1
    return Losses(len(texts), causes.total(), causes)


def _cause(text: str, back: str, ids: Sequence[int], unknown: int | None, special: dict[int, str]) -> str:
    if unknown in ids:
        return UNKNOWN
    if lost := next((special[each] for each in ids if each in special), None):
        return SPECIAL.format(repr(lost))
    text, back = _without_spaces(text), _without_spaces(back)
    if text == back:
        return SPACES
    if text.lower() == back.lower():
        return CASE
    return ACCENTS if _plain(text) == _plain(back) else OTHER


def _without_spaces(text: str) -> str:
    return "".join(text.split())


def _plain(text: str) -> str:
    """Letters and digits without accents, in lower case."""
    return "".join(each for each in unicodedata.normalize("NFKD", text.lower()) if each.isalnum())
