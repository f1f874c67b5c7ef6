"""Columns of Parquet that nobody asks for, and names that look like paths."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from jobs.data.source import Row
from tests.jobs.data.sources import parquet, read, refusal


def test_of_other_columns_nothing_is_read(tmp_path: Path):
    others: dict[str, Any] = {
        "when": [datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)],
        "customer": [{"tags": ["a", None]}],
        "vector": pyarrow.array([[0.5, 1.5]], pyarrow.list_(pyarrow.float32(), 2)),
        "tensor": pyarrow.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((1, 2, 2))),
        "id": pyarrow.array([b"0" * 16], pyarrow.uuid()),
    }
    parquet(tmp_path, text=pyarrow.array(["a"], pyarrow.large_string()), label=["b"], **others)
    assert read(tmp_path / "rows.parquet") == [Row("a", None, "b")]


def test_a_name_with_a_dot_is_no_part_of_another_column(tmp_path: Path):
    parquet(tmp_path, **{"product.name": ["mug"], "product": [{"name": "lamp", "inch": 4}], "label": ["b"]})
    file = tmp_path / "rows.parquet"
    assert [row.text for row in read(file, text="product.name")] == ["mug"]
    assert [row.text for row in read(file, text="product")] == ["name: lamp; inch: 4"]
    assert [(row.text, row.pair) for row in read(file, text="product", text_pair="product.name")] == [
        ("name: lamp; inch: 4", "mug")
    ]


@pytest.mark.parametrize("name", [" text", "text\n", "\ufefftext"])
def test_names_with_spaces_or_a_mark_around_them_are_found(tmp_path: Path, name: str):
    parquet(tmp_path, "rows.parquet", **{name: ["a"], "label": ["b"]})
    assert read(tmp_path / "rows.parquet") == [Row("a", None, "b")]


def test_a_name_that_is_given_twice_is_refused(tmp_path: Path):
    table = pyarrow.table([["a"], ["b"], ["c"]], names=["text", "text", "label"])
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    assert refusal(tmp_path / "rows.parquet") == "column 'text' is given twice; rename one"
