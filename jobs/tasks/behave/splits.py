"""What is asked of histories, and what of them may be known for it: by time, never at random.

None of the events of a basket is known when another of them is asked for. Where no column says what is one basket,
events of a customer at the same time are, and each event where there are no times. Where events have kinds, items that
were bought are asked for, and views and carts are only known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Literal, NamedTuple

from configs.loader import UsageError
from configs.schema.histories import HistorySplitSpec
from jobs.tasks.behave.instants import DAY, start_of
from jobs.tasks.behave.rows import History

Unit = Literal["basket", "event"]


class Question(NamedTuple):
    """What comes next: `wanted` are the items of the next purchase, each once; all that is `known` lies before."""

    customer: str
    known: History
    wanted: tuple[str, ...]
    at: float | None = None  # seconds since 1970, from which on nothing is known; None where there are no times


class Parts(NamedTuple):
    """Histories to learn from and what is asked; a history that trains ends before anything that is asked of it."""

    train: list[History]
    validation: list[Question]
    test: list[Question]


class Purchase(NamedTuple):
    """Whether a customer of whom something is `known` buys anything from `at` on, within a horizon."""

    customer: str
    known: History
    at: float
    bought: bool


def split(histories: Sequence[History], spec: HistorySplitSpec, at: str) -> Parts:
    """The parts of one file of histories; `at` names it in messages. Raises `UsageError` where nothing is left."""
    if spec.by == "last":
        parts = leave_last_out(histories, spec.last)
        hint = "no customer bought at three times; give files of their own in data.validation and data.test"
    else:
        assert spec.validation_from is not None
        assert spec.test_from is not None
        parts = split_by_date(histories, spec.validation_from, spec.test_from, at)
        days = f"from {spec.validation_from} and from {spec.test_from} on"
        hint = f"{days} there must be purchases of customers known before"
    for name, part in zip(Parts._fields, parts, strict=True):
        if not part:
            raise UsageError(f"{at}: the split by {spec.by} leaves nothing for {name}; {hint}")
    return parts


def leave_last_out(histories: Sequence[History], unit: Unit = "basket") -> Parts:
    """Of each customer the last purchase is a test question, the one before it a validation question, the rest trains.

    A customer with nothing left to train on is not asked anything and trains whole.
    """
    parts = Parts([], [], [])
    for history in histories:
        asked = list(_asked(history, unit))
        if len(asked) < 2:
            parts.train.append(history)
            continue
        before, last = asked[-2:]
        parts.train.append(history.until(before[0]))
        parts.validation.append(_question(history, *before))
        parts.test.append(_question(history, *last))
    return parts


def split_by_date(histories: Sequence[History], validation_from: date, test_from: date, at: str) -> Parts:
    """What happened before `validation_from` trains; a customer's first purchase from there on, and the first from
    `test_from` on, are asked where something is known of the customer. Days begin in UTC."""
    if not all(history.times or not history.items for history in histories):
        raise UsageError(f"{at}: has no times, which a split by date needs; give them, or split by last")
    first, second = start_of(validation_from), start_of(test_from)
    parts = Parts([], [], [])
    for history in histories:
        if known := _before(history, first):
            parts.train.append(history.until(known))
        parts.validation.extend(_first_purchase(history, first, second))
        parts.test.extend(_first_purchase(history, second, float("inf")))
    return parts


def every_purchase(history: History) -> list[Question]:
    """A question for each basket with a purchase, but for a first one, before which nothing is known."""
    return [_question(history, *unit) for unit in _asked(history, "basket")]


def last_purchase(history: History) -> list[Question]:
    """The last of `every_purchase`, where there is one."""
    return every_purchase(history)[-1:]


def purchases(histories: Sequence[History], day: date, horizon_days: int, at: str) -> list[Purchase]:
    """Whether each customer who is known before `day` buys within the horizon. Raises `UsageError`.

    The horizon must lie inside the log: of customers whose time is not over nobody knows yet.
    """
    start = start_of(day)
    stop, latest = start + horizon_days * DAY, max((time for each in histories for time in each.times), default=None)
    if latest is None:
        raise UsageError(f"{at}: has no times, without which there is no purchase within {horizon_days} days")
    if stop > latest:
        raise UsageError(
            f"{at}: {horizon_days} days from {day} end after its last event "
            f"({datetime.fromtimestamp(latest, UTC):%Y-%m-%d}); take an earlier day or a shorter horizon"
        )
    return [
        Purchase(each.customer, each.until(known), start, _buys_between(each, start, stop))
        for each in histories
        if (known := _before(each, start))
    ]


def baskets(history: History) -> list[tuple[int, int]]:
    """(start, stop) of the events of each basket, see above."""
    marks = history.baskets or history.times
    if not marks:
        return _events(history)
    starts = [index for index in range(len(marks)) if index == 0 or marks[index] != marks[index - 1]]
    return list(pairwise([*starts, len(marks)]))


def _events(history: History) -> list[tuple[int, int]]:
    return [(index, index + 1) for index in range(len(history.items))]


def _asked(history: History, unit: Unit) -> Iterator[tuple[int, int]]:
    """The units with a purchase before which something is known."""
    for start, stop in baskets(history) if unit == "basket" else _events(history):
        if start and any(map(history.bought, range(start, stop))):
            yield start, stop


def _question(history: History, start: int, stop: int) -> Question:
    bought = [history.items[index] for index in range(start, stop) if history.bought(index)]
    at = history.times[start] if history.times else None
    return Question(history.customer, history.until(start), tuple(dict.fromkeys(bought)), at)


def _first_purchase(history: History, start: float, stop: float) -> list[Question]:
    """The first basket with a purchase at a time in [start, stop), asked with what is known before `start`."""
    known = _before(history, start)
    for first, last in baskets(history) if known else []:
        if start <= history.times[first] < stop and any(map(history.bought, range(first, last))):
            return [_question(history, first, last)._replace(known=history.until(known), at=start)]
    return []


def _before(history: History, time: float) -> int:
    """The number of events before a time."""
    return sum(each < time for each in history.times)


def _buys_between(history: History, start: float, stop: float) -> bool:
    return any(start <= time < stop and history.bought(index) for index, time in enumerate(history.times))
