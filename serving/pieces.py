"""Text as its tokens come: pieces that may go out, of whole characters, ended before a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CUT = "\ufffd"  # what a tokenizer writes for bytes that are no whole character


class Text:
    """The text of one prompt. Its pieces together are the text, however they are cut.

    A character is sent when its last byte has come, and what may begin a stop string when it is known not to.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        """`stop`: strings that end the text and do not belong to it; none is empty."""
        self._tokenizer, self.stop = tokenizer, stop
        self._ids: list[int] = []  # of the last piece, and those that came after it
        self._told = 0  # how many of these belong to the last piece
        self._held = ""  # what may begin a stop string
        self.stopped = False

    def add(self, token: int) -> str:
        """The next piece, often empty; `stopped` says whether it is the last one."""
        self._ids.append(token)
        return self._sent(self._new(end=False), end=False)

    def end(self) -> str:
        """What was held back; bytes that became no character are left out."""
        return "" if self.stopped else self._sent(self._new(end=True), end=True)

    def _new(self, end: bool) -> str:
        """What the tokens after the last piece add to it; the tokens before it may decide on a space between."""
        decode = self._tokenizer.decode
        whole = decode(self._ids)
        if whole.endswith(CUT):
            if not end:
                return ""
            whole = whole.rstrip(CUT)
        piece = whole[len(decode(self._ids[: self._told])) :]
        if piece:
            self._ids = self._ids[self._told :]
            self._told = len(self._ids)
        return piece

    def _sent(self, piece: str, end: bool) -> str:
        text = self._held + piece
        self._held = ""
        found = [place for place in map(text.find, self.stop) if place >= 0]
        if found:
            self.stopped = True
            return text[: min(found)]
        if not end:
            kept = max((_overlap(text, each) for each in self.stop), default=0)
            text, self._held = text[: len(text) - kept], text[len(text) - kept :]
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop` without being it."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
