"""Units of a text, by script: words where a script puts spaces between them, characters where it does not.

Metrics, baselines, augmentation and the runtime of a baseline all cut texts here. A character is a letter with its
marks. Two texts are written alike where their NFC is the same (`written`), and say the same where their NFKC in lower
case is (`folded`). ASCII texts take the short way of each function; tests hold both ways to the same units.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from regex import Pattern

SCRIPTS = (  # that put no spaces between words
    "Han",
    "Hiragana",
    "Katakana",
    "Bopomofo",
    "Yi",
    "Nushu",
    "Tangut",
    "Thai",
    "Lao",
    "Khmer",
    "Myanmar",
    "Tibetan",
    "Tai_Le",
    "New_Tai_Lue",
    "Tai_Tham",
    "Tai_Viet",
    "Javanese",
    "Balinese",
)
SHARED = "ーｰ〆ﾞﾟ"  # letters that belong to several of these scripts
WORDS = "words"  # in words, of texts without such a script
LONGEST_WORD = 4  # characters that may well be one word

# Of the libraries `regex` and `tokenizers`, whose syntax is the same here.
_SCRIPTS = "".join(rf"\p{{{name}}}" for name in SCRIPTS)
CHARACTER = rf"(?:(?=[\p{{L}}\p{{M}}\p{{Nl}}])[{_SCRIPTS}{SHARED}]\p{{M}}*+)"
_MARKS = r"(?:[\u200c\u200d]|(?![\ufe00-\ufe0f])[\p{Mn}\p{Mc}])*"  # a selector says how a sign is drawn
_WORD = rf"(?:(?!{CHARACTER})[\p{{L}}\p{{N}}_]{_MARKS})+"
_LETTERS = rf"(?:(?!{CHARACTER})[\p{{L}}\p{{N}}]{_MARKS})+"

_ASCII_WORD, _ASCII_LETTERS, _ASCII_TERM = (
    re.compile(r"\b\w\w+\b"),
    re.compile(r"[a-z0-9]+"),
    re.compile(r"\w+|[^\w\s]"),
)


class _Patterns(NamedTuple):
    character: Pattern[str]
    words: Pattern[str]  # and characters
    letters: Pattern[str]  # and characters
    terms: Pattern[str]
    runs: Pattern[str]
    pieces: Pattern[str]
    long: Pattern[str]
    scripts: Sequence[tuple[str, Pattern[str]]]


@functools.cache
def _patterns() -> _Patterns:
    import regex  # as slow to import as numpy, and of no use to ASCII texts

    return _Patterns(
        regex.compile(CHARACTER),
        regex.compile(rf"{CHARACTER}|{_WORD}"),
        regex.compile(rf"{CHARACTER}|{_LETTERS}"),
        regex.compile(rf"{CHARACTER}|{_WORD}|\S"),
        regex.compile(rf"{CHARACTER}+|{_WORD}|\S"),
        regex.compile(rf" ?{CHARACTER} ?|(?:(?!{CHARACTER})\S)+"),
        regex.compile(rf"{CHARACTER}{{{LONGEST_WORD + 1}}}"),
        [(name.replace("_", " "), regex.compile(rf"\p{{{name}}}")) for name in SCRIPTS],
    )


def written(text: str) -> str:
    """The text in NFC: an accent is part of its letter, however it was typed."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def folded(text: str) -> str:
    """The text in NFKC and lower case: forms of a letter, such as the full-width ones, are that letter."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).lower()


def lowered(text: str) -> str:
    """The text in NFC and lower case, as baselines read it."""
    return written(text).lower()


def words(text: str) -> list[str]:
    """Words of two letters or more, and characters."""
    if text.isascii():
        return _ASCII_WORD.findall(text)
    return [unit for unit in _patterns().words.findall(text) if len(unit) > 1 or has_characters(unit)]


def letters(text: str) -> list[str]:
    """Words and characters of the text, folded, without `_` and all signs; its signs where it has nothing else.

    An ASCII text of signs alone has none, as in the package rouge-score.
    """
    if text.isascii():
        return _ASCII_LETTERS.findall(text.lower())
    return _patterns().letters.findall(folded(text)) or folded(text).split()


def terms(text: str) -> list[str]:
    """Words, characters and signs."""
    return _ASCII_TERM.findall(text) if text.isascii() else _patterns().terms.findall(text)


def has_characters(text: str) -> bool:
    """Whether a part of the text is of a script without spaces."""
    return not text.isascii() and _patterns().character.search(text) is not None


def apart(text: str) -> str:
    """The text with a space around each character."""
    return _patterns().character.sub(r" \g<0> ", text) if has_characters(text) else text


def several_words(text: str) -> bool:
    """Whether a text is more than a word; characters in a row are one word up to `LONGEST_WORD`."""
    if text.isascii():
        return len(terms(text)) > 1
    return len(_patterns().runs.findall(text)) > 1 or longer_than_a_word(text)


def longer_than_a_word(text: str) -> bool:
    """Whether more than `LONGEST_WORD` characters stand in a row."""
    return not text.isascii() and _patterns().long.search(text) is not None


def pieces(text: str) -> list[str]:
    """All that stands between spaces, and characters, which keep the spaces beside them; for `together`."""
    return text.split() if text.isascii() else _patterns().pieces.findall(" ".join(text.split()))


def together(parts: Iterable[str]) -> str:
    """The text of pieces in any order: words are parted by a space, characters by those that they kept."""
    text, after_word = "", False
    for part in parts:
        is_word = not has_characters(part)
        text += f" {part}" if is_word and after_word else part
        after_word = is_word
    return " ".join(text.split())


def said(texts: Iterable[str]) -> str:
    """How texts are cut, in words: 'words', 'characters (Han)', or 'characters (Han, Thai), words elsewhere'."""
    every = "".join(sorted(set().union(*texts)))
    if not has_characters(every):
        return WORDS
    names = ", ".join(name for name, script in _patterns().scripts if script.search(every))
    others = any(not has_characters(unit) for unit in _patterns().letters.findall(every))
    return f"characters ({names}){f', {WORDS} elsewhere' if others else ''}"
