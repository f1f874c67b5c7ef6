"""Brings the errors of Ray Data's tasks to the driver.

Ray keeps of them a text, with advice of its own, and of an actor that cannot start not even the type. So a task carries
its error in one that can be unpickled anywhere, and a class is made by its first batch.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from configs.errors import KnownError
from configs.given import reason, root_of


class TaskError(Exception):
    """What a task raised, as `cause`."""

    def __init__(self, cause: Exception, *more: object) -> None:
        super().__init__(cause, *more)
        self.cause = cause


def carried(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`function` for `map_batches`, whose errors `root_of` finds on the driver."""

    @functools.wraps(function)
    def run(batch: Any) -> Any:
        with _carrying():
            return function(batch)

    return run


class Carried:
    """The same for a class: `map_batches(Carried, fn_constructor_args=[kind, ...])`."""

    def __init__(self, kind: Callable[..., Callable[[Any], Any]], *arguments: Any) -> None:
        self.make = functools.cache(lambda: kind(*arguments))

    def __call__(self, batch: Any) -> Any:
        """What the object of that class makes of a batch."""
        with _carrying():
            return self.make()(batch)


@contextmanager
def _carrying() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise TaskError(_portable(error)) from error


def _portable(error: Exception) -> Exception:
    """A known error, one that unpickling makes again, or the reason of another, by its type's name."""
    root = root_of(error)
    if not isinstance(root, KnownError):
        root = error
    try:
        again = pickle.loads(pickle.dumps(root))  # noqa: S301 - our own bytes
        assert isinstance(again, Exception)
    except Exception:  # noqa: BLE001 - types that need more than their arguments raise anything
        return RuntimeError(f"{type(root).__name__}: {reason(error)}")
    return again
