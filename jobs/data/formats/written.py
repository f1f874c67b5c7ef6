"""Rows as files: JSON Lines, CSV with a header, or Parquet, each as this package reads it again."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow

Rows = Sequence[Mapping[str, Any]]


def write_json_lines(path: Path, rows: Rows) -> None:
    """One object a line, in UTF-8; a number that is not finite is null."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(_json(dict(row)) + "\n")


def write_csv(path: Path, rows: Rows, columns: Sequence[str]) -> None:
    """All `columns` of each row, empty where it has none; lists and objects are JSON."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_field(row.get(name)) for name in columns] for row in rows)


def write_parquet(path: Path, table: pyarrow.Table, rows: Rows, types: Mapping[str, pyarrow.DataType]) -> None:
    """The columns of `table`, then those of `rows`, of the given types."""
    import pyarrow
    import pyarrow.parquet

    for name, kind in types.items():
        column = pyarrow.array([row.get(name) for row in rows], kind)
        table = table.append_column(name, column) if table.num_columns else pyarrow.table({name: column})
    pyarrow.parquet.write_table(table, path)


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return list(map(_finite, value))
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _field(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return _json(value)
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value
