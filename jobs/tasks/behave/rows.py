"""Histories of customers out of files: one a row, or put together of single events.

Every fault of a row is a `UsageError` that names the source, the line and the column. A basket has the time of its
first event; baskets of one time, and the events of a basket, keep the order of their rows, in every file.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from configs.loader import UsageError
from configs.schema.histories import SINGULAR, ColumnsSpec
from jobs.data.formats import files
from jobs.data.values import class_name, name_of, value_of
from jobs.data.words import no_column
from jobs.tasks.behave.instants import seconds_of

BUY = "buy"
EVENTS = ("view", "cart", BUY)
LONGEST_SHOWN = 40  # characters of a value in a message
NUMBER_FORM = "write numbers such as 2 or 1.95"


class History(NamedTuple):
    """What a customer did, from the first event to the last; what is not known of any event is empty."""

    customer: str
    items: tuple[str, ...]
    times: tuple[float, ...] = ()  # seconds since 1970, rising
    baskets: tuple[str, ...] = ()  # orders, each in one piece
    events: tuple[str, ...] = ()  # of `EVENTS`
    quantities: tuple[float, ...] = ()
    prices: tuple[float, ...] = ()

    def until(self, stop: int) -> History:
        """The first `stop` events."""
        return History._make((self.customer, *(values[:stop] for values in self[1:])))

    def bought(self, index: int) -> bool:
        """Whether the item of an event was bought; where events have no kinds, all were."""
        return not self.events or self.events[index] == BUY


def histories(source: str, at: str, columns: ColumnsSpec) -> Iterator[History]:
    """The histories of a file, folder or URL, in the order in which customers first occur. Raises `UsageError`.

    `at` names the field and the source in messages. Baskets of a customer are sorted by time; those of one time, and
    all where there are no times, stay in the order of their rows. A history that is a row may be empty.
    """
    fields = _fields(files.column_names(source, at), at, columns)
    wanted = [columns.column(field) for field in fields]
    if columns.group is not None:
        found = _grouped(source, at, columns, columns.group, fields)
    else:
        found = (
            _row(record, where, number, columns, fields)
            for number, (where, record) in enumerate(files.records(source, at, wanted), 1)
        )
    is_empty = True
    for history in found:
        is_empty = False
        yield _in_time(history)
    if is_empty:
        raise UsageError(f"{at}: holds no rows")


def _fields(names: Sequence[str], at: str, columns: ColumnsSpec) -> list[str]:
    """The fields that a file has; items, and what the recipe names, it must have."""
    needed = [columns.column(field) for field in SINGULAR if field == "items" or getattr(columns, field)]
    for column in (*([columns.group] if columns.group else []), *needed):
        if name_of(column, names) is None:
            raise no_column(at, column, names)
    return [field for field in SINGULAR if name_of(columns.column(field), names) is not None]


def _row(record: dict[str, Any], where: str, number: int, columns: ColumnsSpec, fields: Sequence[str]) -> History:
    """The history of one row; its customer is its number."""
    _check_columns(record, where, columns, fields)
    lists = {field: _list(record, columns.column(field), where) for field in fields}
    count = len(lists["items"])
    for field, values in lists.items():
        if len(values) != count:
            raise UsageError(
                f"{where}: column {columns.column(field)!r} holds {len(values)} values, column "
                f"{columns.column('items')!r} {count}; each event needs one of each"
            )
    read = {
        field: tuple(
            _read(field, value, f"{where}: column {columns.column(field)!r}: value {place}")
            for place, value in enumerate(values, 1)
        )
        for field, values in lists.items()
    }
    return History(str(number), **read)


def _grouped(source: str, at: str, columns: ColumnsSpec, group: str, fields: Sequence[str]) -> Iterator[History]:
    """The histories of a file of single events, all of which are held in memory."""
    wanted = [group, *(columns.column(field) for field in fields)]
    found: dict[str, dict[str, list[Any]]] = defaultdict(lambda: {field: [] for field in fields})
    for where, record in files.records(source, at, wanted):
        _check_columns(record, where, columns, fields)
        customer = _id(value_of(record, group, where), f"{where}: column {group!r}", "a customer")
        for field, values in found[customer].items():
            column = columns.column(field)
            values.append(_read(field, value_of(record, column, where), f"{where}: column {column!r}"))
    for customer, lists in found.items():
        yield History(customer, **{field: tuple(values) for field, values in lists.items()})


def _check_columns(record: Mapping[str, Any], where: str, columns: ColumnsSpec, fields: Sequence[str]) -> None:
    """Refuse a row that has a column which the first one has not: what it says would be lost."""
    for field in SINGULAR:
        column = columns.column(field)
        if field not in fields and name_of(column, record) is not None:
            raise UsageError(f"{where}: column {column!r} is not in the first row; give it in all rows or in none")


def _in_time(history: History) -> History:
    """The history by time, baskets in one piece and at the time of their first event."""
    count = len(history.items)
    baskets = history.baskets or range(count)
    times = history.times or (0.0,) * count
    begin: dict[Any, float] = {}
    for basket, time in zip(baskets, times, strict=True):
        begin[basket] = min(time, begin.get(basket, time))
    place = {basket: number for number, basket in enumerate(sorted(begin, key=begin.__getitem__))}
    order = sorted(range(count), key=lambda index: place[baskets[index]])
    sorted_values = (tuple(values[index] for index in order if values) for values in history[1:])
    found = History._make((history.customer, *sorted_values))
    return (
        found._replace(times=tuple(begin[basket] for basket in found.baskets))
        if found.times and found.baskets
        else found
    )


def _list(record: dict[str, Any], column: str, where: str) -> list[Any]:
    value = value_of(record, column, where)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if isinstance(value, list):
        return value
    raise UsageError(
        f'{where}: column {column!r} holds no list; write one such as ["a", "b"], or give data.group, the column of '
        "the customer, where a row is one event"
    )


def _read(field: str, value: Any, at: str) -> Any:
    return READERS[field](value, at)


def _item(value: Any, at: str) -> str:
    return _id(value, at, "an item")


def _basket(value: Any, at: str) -> str:
    return _id(value, at, "a basket")


def _id(value: Any, at: str, what: str) -> str:
    """An id as a text: the numbers 22382 and 22382.0 and the text '22382' are one; other texts stay as they are."""
    name = value.strip() if isinstance(value, str) else None if isinstance(value, bool) else class_name(value)
    if not name:
        said = "is empty" if isinstance(value, str) else f"{_kind(value)} is no id"
        raise UsageError(f"{at}: {said}; the id of {what} is a text or a number")
    if not name.isascii() and any("\ud800" <= char <= "\udfff" for char in name):
        raise UsageError(f"{at}: holds half a character (a lone surrogate); remove it")
    return name


def _time(value: Any, at: str) -> float:
    try:
        return seconds_of(value)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{at}: {error}") from None


def _event(value: Any, at: str) -> str:
    kind = value.strip().lower() if isinstance(value, str) else None
    if kind not in EVENTS:
        raise UsageError(f"{at}: {_kind(value)} is no event; {', '.join(EVENTS)} are")
    return kind


def _quantity(value: Any, at: str) -> float:
    number = _number(value, at)
    if number <= 0:
        raise UsageError(f"{at}: {number:g} is no quantity of a purchase; leave out returns and cancelled orders")
    return number


def _price(value: Any, at: str) -> float:
    number = _number(value, at)
    if number < 0:
        raise UsageError(f"{at}: {number:g} is no price; leave out refunds and corrections")
    return number


def _number(value: Any, at: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        raise UsageError(f"{at}: {_kind(value)} is no number; {NUMBER_FORM}")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise UsageError(f"{at}: {_kind(value)} is no number; {NUMBER_FORM}") from None
    if not math.isfinite(number):
        raise UsageError(f"{at}: {number} is no finite number; {NUMBER_FORM}")
    return number


def _kind(value: Any) -> str:
    """A short value as it is, of others the type: a column that is named by mistake may hold what a customer wrote."""
    said = repr(value) if isinstance(value, str | int | float) else ""
    return said if 0 < len(said) <= LONGEST_SHOWN else f"a {type(value).__name__}"


READERS: dict[str, Callable[[Any, str], Any]] = {
    "items": _item,
    "times": _time,
    "baskets": _basket,
    "events": _event,
    "quantities": _quantity,
    "prices": _price,
}
