"""Parquet bodies are read in a child process, which may die without harm."""

from __future__ import annotations

import io
import os
import signal
import struct
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.errors import MalformedError, TidemillError, TooLargeError
from tidemill.serving.codec.body_limits import BodyLimits
from tidemill.serving.codec.parquet_process import ParquetProcess, ParquetRequest
from tidemill.serving.codec.table_files import parquet_columns
from tidemill.signature import Column, Signature

SIGNATURE = Signature(
    "regression",
    "y",
    (Column("a", "number", True), Column("b", "text", True), Column("c", "integer")),
)
LIMITS = BodyLimits(1000, 10_000)
REQUEST = ParquetRequest(list(SIGNATURE.names), ["b"], LIMITS)
COLUMNS = {"a": [1.0, None], "b": ["x", None], "c": [1, 2]}


def written(**options: object) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(COLUMNS), file, **options)
    return file.getvalue()


@pytest.fixture
def process() -> Iterator[ParquetProcess]:
    with_deadline = ParquetProcess(seconds=60.0)
    yield with_deadline
    with_deadline.close()


def child(process: ParquetProcess) -> int:
    running = process._child
    assert running is not None
    return running.pid


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A file with some changed bytes, most of them in its footer."""
    file = bytearray(
        written(
            compression=draw(st.sampled_from(["NONE", "snappy", "zstd"])),
            data_page_version=draw(st.sampled_from(["1.0", "2.0"])),
            write_page_index=draw(st.booleans()),
            use_dictionary=draw(st.booleans()),
        )
    )
    footer = len(file) - 8 - struct.unpack("<I", file[-8:-4])[0]
    first = draw(st.sampled_from([footer, footer, 0]))
    for place in draw(st.lists(st.integers(first, len(file) - 1), min_size=1, max_size=6)):
        file[place] = draw(st.integers(0, 255))
    return bytes(file)


@settings(max_examples=150)
@given(damaged())
def test_a_damaged_file_is_read_or_refused(file: bytes) -> None:
    status = 200
    try:
        parquet_columns(SIGNATURE, LIMITS, file)
    except TidemillError as error:
        status = error.status
    assert status in (200, 400, 413, 422)


def test_a_file_that_ends_the_reader_is_refused_and_the_next_is_read(
    process: ParquetProcess,
) -> None:
    file = terminating_file()
    with pytest.raises(MalformedError, match="reading it failed"):
        process.read(REQUEST, file)
    assert process.read(REQUEST, written())


def terminating_file() -> bytes:
    """A file whose footer makes pyarrow end its process: a level histogram of the wrong length.

    The footer stores the histogram of column a's definition levels, [1, 1], as a Thrift list:
    a byte with its length and type, then the numbers as zigzag integers.
    """
    file = written(compression="NONE")
    footer = len(file) - 8 - struct.unpack("<I", file[-8:-4])[0]
    histogram = file.index(bytes([0x26, 2, 2]), footer)
    shorter = file[:histogram] + bytes([0x16, 2]) + file[histogram + 3 : -8]
    return shorter + struct.pack("<I", len(shorter) - footer) + b"PAR1"


def test_a_reader_that_was_killed_is_replaced(process: ParquetProcess) -> None:
    process.read(REQUEST, written())
    os.kill(child(process), signal.SIGKILL)
    os.waitid(os.P_PID, child(process), os.WEXITED | os.WNOWAIT)
    assert process.read(REQUEST, written())


def test_a_file_that_takes_too_long_is_refused_and_the_next_is_read() -> None:
    process = ParquetProcess(seconds=0.2)
    process.read(REQUEST, written())
    stopped = child(process)
    os.kill(stopped, signal.SIGSTOP)
    try:
        with pytest.raises(TooLargeError, match=r"longer than 0\.2 s"):
            process.read(REQUEST, written())
    finally:
        process.close()


def test_the_reader_ends_with_its_parent(process: ParquetProcess) -> None:
    process.read(REQUEST, written())
    running = process._child
    assert running is not None
    assert running.stdin is not None
    running.stdin.close()
    assert running.wait(60) == 0
    running.stdin = None  # `communicate` would flush it


def test_invalid_utf8_in_a_text_is_refused() -> None:
    table = pa.table({"a": [1.0], "b": pa.array([b"\xff"]), "c": [1]})
    texts = table.set_column(1, "b", table["b"].combine_chunks().view(pa.string()))
    file = io.BytesIO()
    pq.write_table(texts, file)
    with pytest.raises(MalformedError, match="UTF"):
        parquet_columns(SIGNATURE, LIMITS, file.getvalue())
