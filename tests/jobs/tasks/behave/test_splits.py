from __future__ import annotations

from datetime import date

import pytest

from configs.loader import UsageError, validate
from configs.schema.histories import HistorySplitSpec
from jobs.tasks.behave.instants import start_of
from jobs.tasks.behave.rows import History
from jobs.tasks.behave.splits import (
    baskets,
    every_purchase,
    last_purchase,
    leave_last_out,
    purchases,
    split,
    split_by_date,
)

AT = "data.train: shop.csv"


def day(number: int) -> float:
    """The begin of a day of November 2026."""
    return start_of(date(2026, 11, number))


def history(customer: str, *events: tuple[int, str], kinds: str = "") -> History:
    """A history of (day, item), and of the first letters of what was done."""
    names = {"v": "view", "c": "cart", "b": "buy"}
    days, items = zip(*events, strict=True) if events else ((), ())
    return History(customer, items, tuple(map(day, days)), events=tuple(names[kind] for kind in kinds))


def test_events_of_one_time_are_one_basket():
    assert baskets(history("ann", (1, "a"), (1, "b"), (3, "a"), (4, "c"), (4, "d"))) == [(0, 2), (2, 3), (3, 5)]
    assert baskets(History("ann", ("a", "b"))) == [(0, 1), (1, 2)]
    assert baskets(History("ann", ())) == []


def test_a_column_may_say_what_is_one_basket():
    ann = History("ann", ("a", "b", "c"), (1.0, 1.0, 1.0), ("5", "5", "9"))
    assert baskets(ann) == baskets(ann._replace(times=())) == [(0, 2), (2, 3)]
    assert [(each.known.items, each.wanted) for each in every_purchase(ann)] == [(("a", "b"), ("c",))]


def test_the_last_purchase_is_the_test_and_the_one_before_it_validation():
    ann = history("ann", (1, "a"), (2, "b"), (2, "c"), (3, "d"), (3, "a"))
    train, (validation,), (test,) = leave_last_out([ann])
    assert train == [history("ann", (1, "a"))]
    assert (validation.known.items, validation.wanted, validation.at) == (("a",), ("b", "c"), day(2))
    assert (test.known.items, test.wanted, test.at) == (("a", "b", "c"), ("d", "a"), day(3))


def test_single_events_may_be_left_out_of_a_basket_that_is_known_in_part():
    ann = history("ann", (1, "a"), (2, "b"), (2, "c"))
    train, (validation,), (test,) = leave_last_out([ann], "event")
    assert (train[0].items, validation.wanted, test.known.items, test.wanted) == (("a",), ("b",), ("a", "b"), ("c",))


def test_a_customer_with_nothing_left_to_train_on_trains_whole():
    short = [history("ann", (1, "a"), (2, "b")), history("bob", (1, "a"), (1, "b")), History("cat", ())]
    assert leave_last_out(short) == (short, [], [])


def test_views_and_carts_are_known_but_not_asked_for():
    ann = history("ann", (1, "a"), (2, "b"), (3, "c"), (3, "d"), (4, "e"), (5, "f"), kinds="bbvbbv")
    train, (validation,), (test,) = leave_last_out([ann])
    assert train[0].items == ("a", "b")
    assert (validation.known.items, validation.wanted) == (("a", "b"), ("d",))
    assert (test.known.items, test.wanted) == (("a", "b", "c", "d"), ("e",))


def test_a_date_cuts_every_history_at_the_same_time():
    ann = history("ann", (1, "a"), (10, "b"), (12, "c"), (20, "d"), (20, "a"), (25, "e"))
    bob = history("bob", (9, "x"), (19, "y"))
    new = history("new", (10, "n"), (21, "o"))
    train, validation, test = split_by_date([ann, bob, new], date(2026, 11, 10), date(2026, 11, 20), AT)
    assert [each.items for each in train] == [("a",), ("x",)]
    assert [(each.customer, each.known.items, each.wanted) for each in validation] == [
        ("ann", ("a",), ("b",)),
        ("bob", ("x",), ("y",)),
    ]
    assert [(each.customer, each.known.items, each.wanted) for each in test] == [
        ("ann", ("a", "b", "c"), ("d", "a")),
        ("new", ("n",), ("o",)),
    ]
    assert {each.at for each in validation} == {day(10)} and {each.at for each in test} == {day(20)}


@pytest.mark.parametrize("unit", ["basket", "event"])
def test_nothing_that_is_asked_or_later_trains(unit: str):
    ann = history("ann", (1, "a"), (1, "b"), (2, "c"), (5, "d"), (5, "e"), (6, "f"))
    train, (validation,), (test,) = leave_last_out([ann], unit)  # type: ignore[arg-type]
    assert len(train[0].items) == len(validation.known.items) < len(test.known.items)
    assert ann.items[: len(test.known.items)] == test.known.items


def test_every_basket_after_the_first_can_be_asked():
    ann = history("ann", (1, "a"), (1, "b"), (2, "a"), (2, "a"), (3, "c"))
    assert [(each.known.items, each.wanted) for each in every_purchase(ann)] == [
        (("a", "b"), ("a",)),
        (("a", "b", "a", "a"), ("c",)),
    ]
    assert last_purchase(ann) == every_purchase(ann)[1:]
    assert last_purchase(history("bob", (1, "a"), (1, "b"))) == []


def test_a_purchase_within_the_horizon_is_told_of_customers_who_are_known():
    ann = history("ann", (1, "a"), (10, "b"), (15, "c"))
    bob = history("bob", (2, "a"), (17, "b"))
    cat = history("cat", (3, "a"), (12, "b"), kinds="bv")
    new = history("new", (11, "a"))
    found = purchases([ann, bob, cat, new], date(2026, 11, 10), 7, AT)
    assert [(each.customer, each.known.items, each.bought) for each in found] == [
        ("ann", ("a",), True),
        ("bob", ("a",), False),
        ("cat", ("a",), False),
    ]


def test_a_horizon_that_is_not_over_is_refused():
    ann = history("ann", (1, "a"), (15, "b"))
    with pytest.raises(UsageError, match=r"^data.train: shop.csv: 7 days from 2026-11-10 end after its last event"):
        purchases([ann], date(2026, 11, 10), 7, AT)
    with pytest.raises(UsageError, match="has no times"):
        purchases([History("ann", ("a",))], date(2026, 11, 10), 7, AT)


def test_a_split_that_leaves_nothing_is_refused():
    short = [history("ann", (1, "a"), (2, "b"))]
    with pytest.raises(UsageError, match="split by last leaves nothing for validation; no customer bought at three"):
        split(short, HistorySplitSpec(), AT)
    days = HistorySplitSpec(by="date", validation_from=date(2026, 11, 2), test_from=date(2026, 11, 3))
    with pytest.raises(UsageError, match="split by date leaves nothing for test; from 2026-11-02 and from 2026-11-03"):
        split(short, days, AT)
    with pytest.raises(UsageError, match="has no times, which a split by date needs"):
        split([History("ann", ("a", "b"))], days, AT)
    assert split([history("ann", (1, "a"), (2, "b"), (3, "c"))], days, AT).test[0].wanted == ("c",)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"by": "date"}, "by=date needs validation_from and test_from"),
        ({"by": "date", "validation_from": "2026-11-02", "test_from": "2026-11-02"}, "2026-11-02 is not before"),
        ({"validation_from": "2026-11-02"}, "validation_from=2026-11-02 is not used where by=last"),
        ({"by": "date", "last": "event"}, "last=event is not used where by=date"),
    ],
)
def test_a_split_that_says_two_things_is_refused(given: dict[str, str], said: str):
    with pytest.raises(UsageError, match=said):
        validate(HistorySplitSpec, given, "recipe.yaml")
