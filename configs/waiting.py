"""A wait says what it is for: nothing for ten seconds, then one line, then one a minute, until it is over."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

FIRST_SECONDS = 10.0
THEN_SECONDS = 60.0

Reason = Callable[[], str | None]  # what is waited for and who holds it, as one line; None while nothing is

log = logging.getLogger(__name__)


@contextmanager
def waiting(reason: Reason) -> Iterator[None]:
    """Log the line of `reason`, from a thread of its own, as long as the block lasts."""
    over = threading.Event()
    threading.Thread(target=tell, args=(reason, over.wait), daemon=True, name="waiting").start()
    try:
        yield
    finally:
        over.set()


def tell(reason: Reason, over: Callable[[float], bool]) -> None:
    """Log the line of `reason` until `over`, which waits for so many seconds at most, is true.

    A reason of None is asked again as soon as the first time: what was not waited for then may be now.
    """
    pause = FIRST_SECONDS
    while not over(pause):
        if line := reason():
            log.warning("%s", " ".join(line.split()))
        pause = THEN_SECONDS if line else FIRST_SECONDS
