"""Rows in files, and what reading them gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from configs.loader import UsageError
from configs.schema.data import DataSpec
from jobs.data.source import Row, rows

RECORDS = [
    {"text": "where is it?", "label": "track"},
    {"text": "wörds, with a comma", "label": "refund"},
    {"text": 'two\nlines and a "quote"', "label": "track"},
]
EXPECTED = [Row(each["text"], None, each["label"]) for each in RECORDS]
GOOD = b'{"text": "a", "label": "b"}\n'
JSON_LINES = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in RECORDS).encode()


def parquet(folder: Path, name: str = "rows.parquet", **columns: Any) -> bytes:
    columns = columns or {key: [each[key] for each in RECORDS] for key in ("text", "label")}
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / name)
    return (folder / name).read_bytes()


def read(source: str | Path, **fields: Any) -> list[Row]:
    return list(rows(DataSpec.model_validate({"train": str(source), **fields}), "train"))


def refusal(source: str | Path, **fields: Any) -> str:
    with pytest.raises(UsageError) as refused:
        read(source, **fields)
    message = str(refused.value)
    assert message.startswith(f"data.train: {source}: ")
    return message.removeprefix(f"data.train: {source}: ")
