from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from jobs.data.prepared import Examples
from jobs.models.items import BEGIN
from jobs.tasks.behave.catalogue import Catalogue
from jobs.tasks.behave.examples import Example, collate, examples, numbered, seen, table
from jobs.tasks.behave.rows import History

LETTERS = Catalogue("abcdefgh")
ANN = History("ann", ("a", "b", "b", "c", "a"), (1.0, 2.0, 2.0, 3.0, 4.0))


def shown(example: Example) -> tuple[list[int], list[int], dict[int, list[int]]]:
    targets = {place: wanted.tolist() for place, wanted in example.targets.items()}
    return example.numbers.tolist(), example.positions.tolist(), targets


def test_each_basket_is_asked_for_at_the_end_of_the_one_before():
    (found,) = examples(numbered(ANN, LETTERS), 10)
    assert shown(found) == ([BEGIN, 1, 2, 2, 3, 1], [0, 1, 2, 2, 3, 4], {0: [0], 1: [1], 3: [2], 4: [0]})


def test_views_are_seen_but_not_asked_for():
    history = History("ann", ("a", "b", "c", "d"), events=("view", "view", "buy", "view"))
    (found,) = examples(numbered(history, LETTERS), 10)
    assert shown(found) == ([BEGIN, 1, 2, 3, 4], [0, 1, 2, 3, 4], {2: [2]})


def test_unknown_items_are_neither_seen_nor_asked_for():
    history = History("ann", ("a", "new", "b", "new"), (1.0, 2.0, 3.0, 3.0))
    (found,) = examples(numbered(history, LETTERS), 10)
    assert shown(found) == ([BEGIN, 1, 2], [0, 1, 2], {0: [0], 1: [1]})
    assert examples(numbered(History("bob", ("new",)), LETTERS), 10) == []


def test_what_is_asked_may_begin_late():
    (found,) = examples(numbered(ANN, LETTERS, asked_from=3), 10)
    assert shown(found) == ([BEGIN, 1, 2, 2, 3, 1], [0, 1, 2, 2, 3, 4], {3: [2], 4: [0]})


def test_a_part_may_begin_inside_a_basket():
    history = History("ann", tuple("abcdefg"), (1.0,) * 3 + (2.0,) * 3 + (3.0,))
    first, second, *_ = examples(numbered(history, LETTERS), 4)
    assert shown(first) == ([BEGIN, 1, 2, 3, 4], [0, 1, 1, 1, 2], {0: [0, 1, 2], 3: [3, 4, 5]})
    assert shown(second) == ([BEGIN, 3, 4, 5, 6], [0, 1, 2, 2, 2], {4: [6]})


def test_stored_histories_are_read_as_they_were(tmp_path: Path):
    stored = [numbered(each, LETTERS) for each in (ANN, History("bob", ()), History("cat", ("h",)))]
    pyarrow.parquet.write_table(table(stored), tmp_path / "a.parquet")
    read = Examples.from_table(pyarrow.parquet.read_table(tmp_path / "a.parquet"))
    assert read.lengths.tolist() == [5, 0, 1]
    for row, each in enumerate(stored):
        part = slice(*read.offsets[row : row + 2])
        assert read.ids[part].tolist() == each.ids.tolist() and read.types[part].tolist() == each.types.tolist()


def test_blank_rows_fill_a_batch():
    batch = collate(examples(numbered(ANN, LETTERS), 10), length=9, count=3)
    assert batch["input_ids"].shape == (3, 9)
    assert batch["weight"].tolist() == [1, 0, 0]
    assert batch["ends"].sum(1).tolist() == [4, 0, 0]
    empty = collate([], length=9, count=2)
    assert empty["input_ids"].shape == (2, 9) and len(empty["target"]) == 0


def test_the_last_events_of_a_long_history_are_seen():
    assert shown(seen(ANN, LETTERS, 3)) == ([BEGIN, 2, 3, 1], [0, 1, 2, 3], {})
    assert shown(seen(ANN, LETTERS, 9))[0] == [BEGIN, 1, 2, 2, 3, 1]
    assert shown(seen(History("new", ()), LETTERS, 9)) == ([BEGIN], [0], {})


@pytest.mark.parametrize("max_length", [1, 2, 3, 5, 8, 100])
def test_a_long_history_is_asked_for_every_basket_once(max_length: int):
    random = np.random.default_rng(max_length)
    sizes = random.integers(1, 4, size=30)
    items = tuple(random.choice(list(LETTERS.ids), size=sizes.sum()).tolist())
    history = History("ann", items, tuple(np.repeat(np.arange(30.0), sizes).tolist()))
    (whole,) = examples(numbered(history, LETTERS), 1000)
    parts = examples(numbered(history, LETTERS), max_length)
    assert all(len(each.numbers) <= max_length + 1 for each in parts)
    asked = [wanted.tolist() for part in parts for wanted in part.targets.values()]
    assert asked == [wanted.tolist() for wanted in whole.targets.values()]
    text = whole.numbers[1:].tolist()
    before = [(part.numbers[1 : place + 1].tolist(), place) for part in parts for place in part.targets]
    for (known, place), whole_place in zip(before, whole.targets, strict=True):
        assert known == text[whole_place - place : whole_place]
        assert place == whole_place or place >= max_length // 2


def test_tensors_of_examples_of_several_lengths():
    (ann,) = examples(numbered(ANN, LETTERS), 10)
    batch = collate([seen(History("bob", ("h",)), LETTERS, 5), ann])
    assert batch["input_ids"].tolist() == [[BEGIN, 8, 0, 0, 0, 0], [BEGIN, 1, 2, 2, 3, 1]]
    assert batch["ends"].nonzero().tolist() == [[0, 1], [1, 0], [1, 1], [1, 3], [1, 4]]
    assert (batch["end"].tolist(), batch["target"].tolist()) == ([1, 2, 3, 4], [0, 1, 2, 0])


def test_the_targets_of_an_end_weigh_one_together():
    history = History("ann", ("a", "b", "c"), (1.0, 2.0, 2.0))
    batch = collate(examples(numbered(history, LETTERS), 10))
    assert batch["end"].tolist() == [0, 1, 1]
    assert batch["target"].tolist() == [0, 1, 2]
    assert batch["share"].tolist() == [1.0, 0.5, 0.5]
