"""Tables sent as CSV or Parquet files, read within limits."""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Iterable
from typing import Any

from tidemill.errors import (
    InputError,
    MalformedError,
    MediaTypeError,
    TidemillError,
    TooLargeError,
)
from tidemill.serving.codec.body_limits import BodyLimits
from tidemill.signature import Signature

MAX_PARQUET_BYTES = 256 << 20  # of the columns that are read, decompressed
PARQUET_ROWS = 512  # read at once


def csv_records(
    body: bytes, limits: BodyLimits, *, ragged: bool = False
) -> tuple[list[str], list[list[str]]]:
    """The header and the records, which have as many cells; reading stops at the limits.

    Args:
        ragged: Keep records with another number of cells.

    Raises:
        MalformedError: The body is not CSV, or a line has another number of cells.
        InputError: A name occurs twice.
        TooLargeError: There are too many rows or cells.
    """
    records: list[list[str]] = []
    try:
        lines = csv.reader(io.StringIO(body.decode("utf-8-sig")), strict=True)
        header = next((line for line in lines if line), [])
        limits.check(1, len(header))
        _refuse_repeated(header)
        for record in lines:
            if not record:
                continue
            if len(record) != len(header) and not ragged:
                raise MalformedError(
                    f"Line {lines.line_num} has a different number of cells than the header."
                )
            records.append(record)
            limits.check(len(records), max(len(header), len(record)))
    except (UnicodeDecodeError, csv.Error) as error:
        raise MalformedError(f"The body is not CSV: {error}.") from error
    return header, records


def _refuse_repeated(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(f"The table has several columns '{name[:80]}'.", field=name[:80])
        seen.add(name)


def parquet_columns(signature: Signature, limits: BodyLimits, body: bytes) -> dict[str, list[Any]]:
    """The model's columns of a Parquet file, or all columns for a tensor model.

    Raises:
        MediaTypeError: pyarrow is not installed.
        MalformedError: The body is not a Parquet file.
        InputError: A column occurs twice, is nested, or has an encoding that is not read.
        TooLargeError: There are too many rows or cells, or they take too much memory.
    """
    try:
        table = _parquet_table(signature, limits, body)
    except TidemillError:
        raise
    except Exception as error:  # pyarrow raises many errors for invalid files
        raise MalformedError(f"The body is not a Parquet file: {str(error)[:200]}") from error
    return {name: _column_values(table.column(name)) for name in table.column_names}


def _pyarrow(name: str) -> Any:
    """A module of pyarrow, which the data plane does not require."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MediaTypeError(
            "The server cannot read Parquet, because pyarrow is not installed.",
            remedy="Send JSON or CSV, or install pyarrow on the server.",
        ) from error


def _parquet_table(signature: Signature, limits: BodyLimits, body: bytes) -> Any:
    """The model's columns of a file whose footer promises an acceptable size.

    The footer is the sender's claim: reading goes batch by batch, so that a file with more rows
    than its footer says is refused as well.
    """
    parquet = _pyarrow("pyarrow.parquet")
    texts = [column.name for column in signature.columns if column.kind == "text"]
    # Repeated texts stay a dictionary: as separate texts they can take any amount of memory.
    with parquet.ParquetFile(io.BytesIO(body), read_dictionary=texts) as file:
        about = file.metadata
        limits.check(about.num_rows, 1)
        limits.check(1, about.num_columns)
        names = file.schema_arrow.names
        _refuse_repeated(names)
        known = set(signature.names)
        wanted = names if signature.tensor else [name for name in names if name in known]
        limits.check(about.num_rows, len(wanted))
        _refuse_nested(file.schema_arrow, wanted)
        _refuse_unfolding(about, set(wanted))
        batches, rows, size = [], 0, 0
        for batch in file.iter_batches(PARQUET_ROWS, columns=wanted, use_threads=False):
            rows += batch.num_rows
            limits.check(rows, len(wanted))
            size += batch.nbytes
            _check_size(size)
            batches.append(batch)
    arrow = _pyarrow("pyarrow")
    return arrow.Table.from_batches(batches, None if batches else arrow.schema([]))


def _refuse_nested(schema: Any, names: list[str]) -> None:
    """A nested column holds any number of values in each row."""
    types = _pyarrow("pyarrow.types")
    for name in names:
        if types.is_nested(schema.field(name).type):
            raise InputError(
                f"The column '{name[:80]}' holds lists or objects.",
                field=name[:80],
                expected="one value in each row",
            )


def _refuse_unfolding(about: Any, names: set[str]) -> None:
    """Refuse columns that claim too much memory, or whose texts may be prefixes of one another."""
    claimed = 0
    for group in range(about.num_row_groups):
        for place in range(about.num_columns):
            column = about.row_group(group).column(place)
            if column.path_in_schema not in names:
                continue
            claimed += column.total_uncompressed_size
            if "DELTA_BYTE_ARRAY" in column.encodings:
                raise InputError(
                    f"The column '{column.path_in_schema[:80]}' is encoded as DELTA_BYTE_ARRAY.",
                    field=column.path_in_schema[:80],
                    expected="the encoding PLAIN or RLE_DICTIONARY",
                )
    _check_size(claimed)


def _check_size(size: int) -> None:
    if size > MAX_PARQUET_BYTES:
        raise TooLargeError(
            f"The columns take {size >> 20} MiB when they are decompressed.",
            expected=f"at most {MAX_PARQUET_BYTES >> 20} MiB",
            remedy="Send fewer rows at once.",
        )


def _column_values(column: Any) -> list[Any]:
    """The values of a column; equal texts of a dictionary are one object."""
    found: list[Any] = []
    for chunk in column.chunks:
        if not hasattr(chunk, "dictionary"):
            found += chunk.to_pylist()
            continue
        values = chunk.dictionary.to_pylist()
        found += [None if i is None else values[i] for i in chunk.indices.to_pylist()]
    return found
