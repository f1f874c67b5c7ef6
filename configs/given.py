"""Words any error of what a user gave as one line: field, file, reason, remedy.

Libraries share no type of error for a damaged file: tokenizers raise a plain `Exception`, pyarrow, safetensors and the
Hub their own, and Ray wraps what its tasks raise. So a block that reads something given runs under `given`, and nothing
else does: an error of our own code keeps its traceback.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from configs.errors import KnownError
from configs.folder import NO_ROOM
from configs.loader import UsageError
from configs.shown_urls import shown_urls

LONGEST_REASON = 240  # characters
INTERNAL = (LookupError, TypeError, AttributeError, ArithmeticError, AssertionError)  # their messages need their names
PANIC = "PanicException"  # of libraries in Rust; no subclass of Exception
NUMBER = re.compile(r"^\[Errno -?\d+\] ")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
STACK = re.compile(r"Traceback \(|File \"|During handling|The above exception|\^+$|~*\^+~*$")
ADVICE = re.compile(  # of a library to its caller; ours is the remedy
    r"If you|Otherwise|Check |See |Please |You (can|need|may|should)|For (further|more) |Make sure|Try |Set |Use "
)


@contextmanager
def given(at: str, remedy: str = "", what: str = "cannot be read") -> Iterator[None]:
    """Raise what fails in the block as one `UsageError`: `at: cannot be read: reason; remedy`.

    `at` names the field and the value. What is known passes: a `KnownError`, also one of a Ray task, whose message is
    the line already; a full disk and a lack of memory, which the given thing does not cause.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise  # a stop
        root = root_of(error)
        if isinstance(root, KnownError | MemoryError) or (isinstance(root, OSError) and root.errno in NO_ROOM):
            raise root from root.__cause__
        raise UsageError("; ".join(filter(None, [f"{at}: {what}: {reason(error)}", remedy]))) from error


def root_of(error: BaseException) -> BaseException:
    """The error at the bottom of what Ray and others wrap around it, or the first `KnownError` on the way there."""
    *_, root = _chain(error)
    return root


def reason(error: BaseException) -> str:
    """The first useful line of the innermost cause that has one: short, without stacks, advice and secrets of URLs."""
    chain = [each for each in _chain(error) if str(each).strip()] or [error]
    told = [each for each in chain if not isinstance(each, INTERNAL)] or chain
    root = told[-1]
    if isinstance(root, OSError) and root.strerror:
        return _cut(": ".join(filter(None, [root.strerror, root.filename and str(root.filename)])))
    said = _sentences(str(root))
    name = type(root).__name__
    return f"{name}: {said}" if said and isinstance(root, INTERNAL) else said or name


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and those below it: what an error of Ray's holds, or what it was raised from."""
    below: object = error
    while isinstance(below, BaseException):
        yield below
        held = getattr(below, "cause", None) or getattr(below, "health_check_failure", None)
        below = held or (None if isinstance(below, KnownError) else below.__cause__)


def _sentences(message: str) -> str:
    lines = (" ".join(line.split()) for line in NUMBER.sub("", COLOURS.sub("", message)).splitlines())
    useful = [line for line in lines if line and not STACK.match(line) and not ADVICE.match(line)]
    first, *more = useful or [""]
    if first.endswith(":") and more:  # a heading
        first = f"{first} {more[0]}"
    sentences = [each for each in SENTENCE.split(first) if not ADVICE.match(each)] or [first]
    return _cut(" ".join(sentences).rstrip(".:; "))


def _cut(text: str) -> str:
    text = shown_urls(text)
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 1] + "…"
