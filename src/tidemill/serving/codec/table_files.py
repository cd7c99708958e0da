"""Tables sent as CSV or Parquet files, read within limits."""

from __future__ import annotations

import csv
import importlib
import io
from typing import Any

from tidemill.errors import MalformedError, MediaTypeError
from tidemill.serving.codec.body_limits import BodyLimits, refuse_repeated
from tidemill.serving.codec.parquet_process import ParquetRequest, shared_process
from tidemill.signature import Signature


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
        refuse_repeated(header)
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


def parquet_columns(signature: Signature, limits: BodyLimits, body: bytes) -> dict[str, list[Any]]:
    """The model's columns of a Parquet file, or all columns for a tensor model.

    Raises:
        MediaTypeError: pyarrow is not installed.
        MalformedError: The body is not a Parquet file.
        InputError: A column occurs twice, is nested, or has an encoding that is not read.
        TooLargeError: There are too many rows or cells, or they take too much memory.
    """
    arrow = _pyarrow()
    request = ParquetRequest(
        None if signature.tensor else list(signature.names),
        [column.name for column in signature.columns if column.kind in ("text", "datetime")],
        limits,
    )
    stream = shared_process().read(request, body)
    table = arrow.ipc.open_stream(stream).read_all()
    try:
        columns = {name: _in_micros(arrow, table.column(name)) for name in table.column_names}
        return {name: _column_values(column) for name, column in columns.items()}
    except (ValueError, OverflowError) as error:  # a time that Python cannot express
        raise MalformedError(f"A value cannot be read: {str(error)[:200]}") from error


def _pyarrow() -> Any:
    """pyarrow, which the data plane does not require."""
    try:
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise MediaTypeError(
            "The server cannot read Parquet, because pyarrow is not installed.",
            remedy="Send JSON or CSV, or install pyarrow on the server.",
        ) from error


def _in_micros(arrow: Any, column: Any) -> Any:
    """A column of timestamps as Python can hold them, those with a zone in UTC; others as it is."""
    if not arrow.types.is_timestamp(column.type):
        return column
    zone = "UTC" if column.type.tz else None
    return column.cast(arrow.timestamp("us", zone), safe=column.type.unit != "ns")


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
