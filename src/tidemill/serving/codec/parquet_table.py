"""The model's columns of a Parquet file, read within limits; runs in a process of its own."""

from __future__ import annotations

import io
import resource
import signal
import sys
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.errors import InputError, MalformedError, TidemillError, TooLargeError
from tidemill.serving.codec.body_limits import refuse_repeated
from tidemill.serving.codec.parquet_process import ParquetRequest, Refusal, receive, send

MAX_BYTES = 256 << 20  # of the columns that are read, decompressed
ROWS = 512  # read at once
MEMORY_BYTES = 4 << 30  # of address space


def table_stream(request: bytes, file: bytes) -> bytes:
    """An Arrow stream of the columns asked for.

    Args:
        request: A `ParquetRequest` as JSON.

    Raises:
        MalformedError: The file is not a Parquet file.
        InputError: A column occurs twice, is nested, or has an encoding that is not read.
        TooLargeError: There are too many rows or cells, or they take too much memory.
    """
    try:
        table = _read(msgspec.json.decode(request, type=ParquetRequest), file)
        table.validate(full=True)
        written = io.BytesIO()
        with pa.ipc.new_stream(written, table.schema) as stream:
            stream.write_table(table)
    except TidemillError:
        raise
    except MemoryError as error:
        raise TooLargeError(
            "The columns take too much memory when they are decompressed.",
            remedy="Send fewer rows at once.",
        ) from error
    except Exception as error:  # pyarrow raises many errors for invalid files
        raise MalformedError(f"The body is not a Parquet file: {str(error)[:200]}") from error
    return written.getvalue()


def _read(request: ParquetRequest, body: bytes) -> Any:
    """The columns of a file whose footer promises an acceptable size.

    The footer is the sender's claim: reading goes batch by batch, so that a file with more rows
    than its footer says is refused as well.
    """
    limits = request.limits
    # Repeated texts stay a dictionary: as separate texts they can take any amount of memory.
    with pq.ParquetFile(io.BytesIO(body), read_dictionary=request.texts) as file:
        about = file.metadata
        limits.check(about.num_rows, 1)
        limits.check(1, about.num_columns)
        names = file.schema_arrow.names
        refuse_repeated(names)
        known = None if request.names is None else set(request.names)
        wanted = [name for name in names if known is None or name in known]
        limits.check(about.num_rows, len(wanted))
        _refuse_nested(file.schema_arrow, wanted)
        _refuse_unfolding(about, set(wanted))
        batches, rows, size = [], 0, 0
        for batch in file.iter_batches(ROWS, columns=wanted, use_threads=False):
            rows += batch.num_rows
            limits.check(rows, len(wanted))
            size += batch.nbytes
            _check_size(size)
            batches.append(batch)
    return pa.Table.from_batches(batches, None if batches else pa.schema([]))


def _refuse_nested(schema: Any, names: list[str]) -> None:
    """A nested column holds any number of values in each row."""
    for name in names:
        if pa.types.is_nested(schema.field(name).type):
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
    if size > MAX_BYTES:
        raise TooLargeError(
            f"The columns take {size >> 20} MiB when they are decompressed.",
            expected=f"at most {MAX_BYTES >> 20} MiB",
            remedy="Send fewer rows at once.",
        )


def main() -> None:
    """Answer requests from standard input until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which closes the pipe
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    send(sys.stdout.buffer, b"", b"")  # ready
    while True:
        try:
            request, file = receive(sys.stdin.buffer)
        except EOFError:
            return
        try:
            header, table = b"", table_stream(request, file)
        except TidemillError as error:
            header, table = msgspec.json.encode(Refusal.of(error)), b""
        send(sys.stdout.buffer, header, table)


if __name__ == "__main__":
    main()
