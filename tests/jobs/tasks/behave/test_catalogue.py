from __future__ import annotations

from jobs.tasks.behave.catalogue import Catalogue
from jobs.tasks.behave.rows import History


def test_items_are_numbered_from_the_most_bought_on():
    histories = [
        History("1", ("d", "b", "a", "c", "c"), events=("view", "buy", "buy", "view", "view")),
        History("2", ("b", "a", "b"), events=("view", "view", "buy")),
    ]
    assert Catalogue.of(histories).ids == ("b", "a", "c", "d")
    assert Catalogue.of([History("1", ("x", "y", "y", "w"))]).ids == ("y", "w", "x")


def test_unknown_items_have_no_number():
    assert Catalogue(["b", "a"]).numbers(["a", "new", "b", "a"]) == [1, 0, 1]


def test_a_tenth_of_the_items_is_popular_and_one_at_least():
    assert [Catalogue([str(n) for n in range(size)]).popular for size in (3, 10, 3659)] == [1, 1, 366]
