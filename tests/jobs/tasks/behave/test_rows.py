from __future__ import annotations

import gzip
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from configs.loader import UsageError, validate
from configs.schema.histories import ColumnsSpec
from jobs.tasks.behave.rows import History, histories

TIMES, KINDS = (100.0, 100.0, 200.0), ("view", "buy", "buy")
ANN = History("1", ("a", "b", "a"), TIMES, (), KINDS, (1.0, 2.0, 1.0), (0.0, 1.95, 3.0))
BOB = History("2", ())
WHOLE = {
    "items": ["a", "b", "a"],
    "times": [100, 100, 200],
    "events": ["view", "buy", "buy"],
    "quantities": [1, 2, 1],
    "prices": [0, 1.95, 3],
}
EMPTY: dict[str, list[Any]] = {name: [] for name in WHOLE}
HEADER: tuple[str, ...] = ("customer", "item", "time", "event", "quantity", "price")
EVENTS = [
    ("ann", "a", 200, "buy", 1, 3),
    ("bob", 7, 50, "cart", 1, 2),
    ("ann", "b", 100, "view", 2, 1.95),
    ("ann", "c", 100, "buy", 2, 1.95),
]
OF_EVENTS = [
    History("ann", ("b", "c", "a"), TIMES, (), KINDS, (2.0, 2.0, 1.0), (1.95, 1.95, 3.0)),
    History("bob", ("7",), (50.0,), (), ("cart",), (1.0,), (2.0,)),
]
BY_CUSTOMER = ColumnsSpec(group="customer")


def read(path: Path, columns: ColumnsSpec | None = None) -> list[History]:
    return list(histories(str(path), f"data.train: {path.name}", columns or ColumnsSpec()))


def lines(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
    return path


def refused(path: Path, columns: ColumnsSpec | None = None) -> str:
    with pytest.raises(UsageError) as error:
        read(path, columns)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_row_is_the_history_of_a_customer(tmp_path: Path):
    assert read(lines(tmp_path / "a.jsonl", WHOLE, EMPTY)) == [ANN, BOB]


def test_the_same_histories_come_out_of_each_form(tmp_path: Path):
    table = pyarrow.Table.from_pylist([WHOLE, EMPTY])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    fields = (json.dumps(value).replace('"', '""') for each in (WHOLE, EMPTY) for value in each.values())
    quoted = [f'"{field}"' for field in fields]
    text = "\n".join([",".join(WHOLE), ",".join(quoted[:5]), ",".join(quoted[5:])])
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode()))
    assert read(tmp_path / "a.parquet") == read(tmp_path / "a.csv.gz") == [ANN, BOB]


def test_events_are_put_together_by_customer_and_sorted_by_time(tmp_path: Path):
    rows = [dict(zip(HEADER, event, strict=True)) for event in EVENTS]
    (tmp_path / "a.csv").write_text("\n".join(",".join(map(str, each)) for each in (HEADER, *EVENTS)))
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([each | {"item": str(each["item"])} for each in rows]), tmp_path / "a.parquet"
    )
    for path in (tmp_path / "a.csv", tmp_path / "a.parquet", lines(tmp_path / "a.jsonl", *rows)):
        assert read(path, BY_CUSTOMER) == OF_EVENTS, path


def test_events_of_one_time_stay_in_the_order_of_their_rows(tmp_path: Path):
    path = lines(tmp_path / "a.jsonl", {"items": ["d", "c", "b", "a"], "times": [2, 1, 2, 1]})
    assert read(path)[0].items == ("c", "a", "d", "b")


def test_a_basket_is_in_one_piece_at_the_time_of_its_first_event(tmp_path: Path):
    row = {"items": ["c", "a", "d", "b", "e"], "baskets": [9, 7, 9, 7, 5], "times": [200, 100, 201, 250, 200]}
    (found,) = read(lines(tmp_path / "a.jsonl", row))
    assert found.items == ("a", "b", "c", "d", "e")
    assert found.baskets == ("7", "7", "9", "9", "5")
    assert found.times == (100.0, 100.0, 200.0, 200.0, 200.0)
    (found,) = read(lines(tmp_path / "b.jsonl", {name: row[name] for name in ("items", "baskets")}))
    assert found == History("1", ("c", "d", "a", "b", "e"), (), ("9", "9", "7", "7", "5"))


def test_events_without_times_stay_in_the_order_of_their_rows(tmp_path: Path):
    rows = [{"customer": 1, "item": "b"}, {"customer": 2, "item": "c"}, {"customer": 1, "item": "a"}]
    assert read(lines(tmp_path / "a.jsonl", *rows), BY_CUSTOMER) == [History("1", ("b", "a")), History("2", ("c",))]


def test_an_id_is_a_text_whatever_its_type(tmp_path: Path):
    path = lines(tmp_path / "a.jsonl", {"items": [22382, 22382.0, " 22382 ", "007", "1.10", "True"]})
    assert read(path)[0].items == ("22382", "22382", "22382", "007", "1.10", "True")


def test_times_of_parquet_are_times(tmp_path: Path):
    moments = [datetime(2026, 11, 2, 12), datetime(2026, 11, 1)]  # noqa: DTZ001 - as a shop stores them
    pyarrow.parquet.write_table(pyarrow.table({"items": [["a", "b"]], "times": [moments]}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [History("1", ("b", "a"), (1793491200.0, 1793620800.0))]


def test_columns_can_have_other_names(tmp_path: Path):
    columns = ColumnsSpec(group="CustomerID", items="StockCode", times="InvoiceDate")
    path = lines(
        tmp_path / "a.jsonl", {"CustomerID": 5, "StockCode": "x", "InvoiceDate": "2026-11-01", "Country": "UK"}
    )
    assert read(path, columns) == [History("5", ("x",), (1793491200.0,))]


def test_a_history_ends_where_it_is_cut():
    assert ANN.until(2) == History("1", ("a", "b"), (100.0, 100.0), (), ("view", "buy"), (1.0, 2.0), (0.0, 1.95))
    assert [ANN.bought(index) for index in range(3)] == [False, True, True]
    assert History("1", ("a",)).bought(0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"times": [1, 2]}, "column 'times' holds 2 values, column 'items' 3; each event needs one of each"),
        ({"times": [1, 2, "soon"]}, "column 'times': value 3: 'soon' is no time; write it as 2026-11-30"),
        ({"times": None}, "column 'times' has no value"),
        ({"items": "a b a"}, 'column \'items\' holds no list; write one such as ["a", "b"], or give data.group'),
        ({"items": ["a", "", "b"]}, "column 'items': value 2: is empty; the id of an item is a text or a number"),
        ({"items": ["a", None, "b"]}, "column 'items': value 2: a NoneType is no id"),
        ({"items": ["a", True, "b"]}, "column 'items': value 2: True is no id"),
        ({"items": ["a", "\ud800", "b"]}, "column 'items': value 2: holds half a character"),
        ({"events": ["view", "purchase", "buy"]}, "column 'events': value 2: 'purchase' is no event; view, cart"),
        ({"events": ["x" * 50, "buy", "buy"]}, "column 'events': value 1: a str is no event"),
        (
            {"quantities": [1, -2, 1]},
            "column 'quantities': value 2: -2 is no quantity of a purchase; leave out returns",
        ),
        ({"quantities": [1, "two", 1]}, "column 'quantities': value 2: 'two' is no number; write numbers such as 2"),
        ({"prices": [1, 2, -1]}, "column 'prices': value 3: -1 is no price; leave out refunds"),
        ({"prices": [1, 2, 1e999]}, "column 'prices': value 3: inf is no finite number"),
    ],
)
def test_a_fault_of_a_history_is_one_line_with_its_place(tmp_path: Path, change: dict[str, Any], said: str):
    path = lines(tmp_path / "a.jsonl", WHOLE, WHOLE | change)
    assert refused(path).startswith(f"data.train: a.jsonl: line 2: {said}")


def test_a_fault_of_an_event_is_one_line_with_its_place(tmp_path: Path):
    (tmp_path / "a.csv").write_text("customer,item,time\nann,a,2026-11-01\nbob,b,01.11.2026\n")
    said = refused(tmp_path / "a.csv", BY_CUSTOMER)
    assert said.startswith("data.train: a.csv: line 3: column 'time': '01.11.2026' is no time")
    (tmp_path / "a.csv").write_text("customer,item\n,a\n")
    assert refused(tmp_path / "a.csv", BY_CUSTOMER).startswith(
        "data.train: a.csv: line 2: column 'customer': is empty; the id of a customer is a text or a number"
    )


def test_a_column_that_is_named_must_be_there(tmp_path: Path):
    path = lines(tmp_path / "a.jsonl", {"items": ["a"]})
    assert refused(path, ColumnsSpec(times="when")) == "data.train: a.jsonl: no column 'when'; columns here: items"
    assert refused(path, BY_CUSTOMER) == "data.train: a.jsonl: no column 'customer'; columns here: items"
    path = lines(tmp_path / "b.jsonl", {"products": ["a"]})
    assert refused(path) == "data.train: b.jsonl: no column 'items'; columns here: products"


def test_a_column_is_in_all_rows_or_in_none(tmp_path: Path):
    plain, timed = {"items": ["a"]}, {"items": ["a"], "times": [1]}
    assert refused(lines(tmp_path / "a.jsonl", plain, timed)) == (
        "data.train: a.jsonl: line 2: column 'times' is not in the first row; give it in all rows or in none"
    )
    assert "line 2: no column 'times'" in refused(lines(tmp_path / "b.jsonl", timed, plain))


def test_a_file_without_rows_is_refused(tmp_path: Path):
    (tmp_path / "a.csv").write_text("items\n")
    assert refused(tmp_path / "a.csv") == "data.train: a.csv: holds no rows"


def test_one_column_is_not_two_things():
    with pytest.raises(UsageError, match="'item' is the column of two things"):
        validate(ColumnsSpec, {"group": "item"}, "recipe.yaml")
