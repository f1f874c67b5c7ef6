"""Parquet with plain columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from configs.loader import UsageError

if TYPE_CHECKING:
    import pyarrow.parquet


def records(file: Any, at: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, record) of each row. Raises `UsageError`."""
    number = 0
    for batch in opened(file, at).iter_batches():
        for record in batch.to_pylist():
            number += 1
            yield f"{at}: row {number}", record


def opened(file: Any, at: str) -> pyarrow.parquet.ParquetFile:
    """The file after its footer was checked. Raises `UsageError`."""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
        schema = table.schema_arrow
    except pyarrow.ArrowException as error:
        raise UsageError(f"{at}: not Parquet: {error}") from None
    for field in schema:
        if isinstance(field.type, pyarrow.BaseExtensionType):  # reading one can run code that the file carries
            raise UsageError(f"{at}: column {field.name!r} has the extension type {field.type}; store plain columns")
    return table
