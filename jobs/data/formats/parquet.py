"""Parquet with plain columns, of which those are read that are wanted."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from configs.given import reason
from configs.loader import UsageError
from jobs.data.values import name_of
from jobs.data.words import given_twice, no_column

if TYPE_CHECKING:
    import pyarrow.parquet


def records(file: Any, at: str, wanted: Collection[str] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, record) of each row with the columns `wanted`, None: all. Raises `UsageError`."""
    table = opened(file, at)
    if not table.metadata.num_rows:
        return
    names = table.schema_arrow.names
    chosen = {column: name_of(column, names) for column in (names if wanted is None else wanted)}
    if absent := next((column for column, name in chosen.items() if name is None), None):
        raise no_column(f"{at}: row 1", absent, names)
    columns = [name for name in names if name in chosen.values()]
    types = {name: table.schema_arrow.field(name).type for name in columns}
    _refuse_extensions(types, at)
    narrow = {name: kind for name, kind in types.items() if _is_narrow(kind)}
    number = 0
    for batch in table.iter_batches(columns=columns):
        for record in batch.select(columns).to_pylist():  # 'a.b' also gives a part of the column a
            number += 1
            yield f"{at}: row {number}", record | {name: _shortest(record[name], kind) for name, kind in narrow.items()}


def opened(file: Any, at: str) -> pyarrow.parquet.ParquetFile:
    """The file after its footer was checked. Raises `UsageError`."""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
        names = table.schema_arrow.names
    except pyarrow.ArrowException as error:
        raise UsageError(f"{at}: not Parquet: {reason(error)}") from None
    if twice := given_twice(names):
        raise UsageError(f"{at}: {twice}")
    return table


def _refuse_extensions(types: dict[str, pyarrow.DataType], at: str) -> None:
    """Refuse columns of types whose reading can run code that the file carries."""
    import pyarrow

    for name, kind in types.items():
        if isinstance(kind, pyarrow.BaseExtensionType):
            raise UsageError(f"{at}: column {name!r} has the extension type {kind}; store plain columns")


def _is_narrow(kind: pyarrow.DataType) -> bool:
    """Whether a type holds numbers of 16 or 32 bits, which Python would show with digits that nobody wrote."""
    import pyarrow

    parts = [kind.field(index).type for index in range(kind.num_fields)]
    return pyarrow.types.is_float16(kind) or pyarrow.types.is_float32(kind) or any(map(_is_narrow, parts))


def _shortest(value: Any, kind: pyarrow.DataType) -> Any:
    """The value with the shortest numbers that are stored as its own are: 2.33, not 2.3299999237060547."""
    import numpy
    import pyarrow

    if value is None or not _is_narrow(kind):
        return value
    if pyarrow.types.is_struct(kind):
        return {name: _shortest(each, kind.field(name).type) for name, each in value.items()}
    if pyarrow.types.is_map(kind):
        return [(name, _shortest(each, kind.item_type)) for name, each in value]
    if isinstance(value, list):
        return [_shortest(each, kind.value_type) for each in value]
    return float(str((numpy.float16 if pyarrow.types.is_float16(kind) else numpy.float32)(value)))
