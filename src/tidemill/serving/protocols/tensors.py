"""The wire format of tensors in the Open Inference Protocol: JSON data or raw bytes."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tidemill.errors import InputError, MalformedError
from tidemill.serving.codec.body_limits import BodyLimits

Array = npt.NDArray[Any]
BYTES = "BYTES"
#: The protocol's numeric datatypes; little-endian on the wire.
DTYPES = {
    "BOOL": "?", "UINT8": "<u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
    "INT8": "<i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8",
    "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
_FLAT: Any = msgspec.json.Decoder(list[float]).decode
_ROWS: Any = msgspec.json.Decoder(list[list[float]]).decode
NAMES = {np.dtype(code): name for name, code in DTYPES.items()}


class TensorIn(msgspec.Struct):
    """One input of a request: `data` as a flat or nested list, or bytes after the JSON, whose
    number is in the parameter `binary_data_size`.

    `data` is decoded once its datatype is known, which is several times faster.
    """

    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw = msgspec.Raw()
    parameters: dict[str, Any] = {}


def read_tensors(inputs: Sequence[TensorIn], tail: bytes, limits: BodyLimits) -> dict[str, Array]:
    """The inputs as arrays by name; `tail` holds their bytes in the order of the inputs.

    Raises:
        InputError: A tensor does not match its declared datatype or shape; names it.
        MalformedError: The data is not JSON, or bytes are left over.
        TooLargeError: The shapes declare too many rows or cells.
    """
    cells = 0
    found: dict[str, Array] = {}
    offset = 0
    for entry in inputs:
        _check(entry, found)
        limits.check(entry.shape[0], 1, field=entry.name[:80])
        cells += math.prod(entry.shape)
        limits.check(1, cells, field=entry.name[:80])
        size = entry.parameters.get("binary_data_size")
        if size is None:
            flat = _from_json(entry)
        else:
            flat = _from_bytes(entry, _slice(entry, tail, offset, size))
            offset += size
        if len(flat) != math.prod(entry.shape):
            raise InputError(
                f"'{entry.name}' has {len(flat)} values, and its shape {entry.shape} has "
                f"{math.prod(entry.shape)}.",
                field=entry.name,
            )
        found[entry.name] = flat.reshape(entry.shape)
    if offset != len(tail):
        raise MalformedError(f"{len(tail) - offset} bytes after the JSON belong to no input.")
    return found


def tensor_bytes(array: Array) -> bytes:
    """An array in the binary format of the extension; each text is prefixed with its length."""
    if datatype_of(array) != BYTES:
        dtype = np.dtype(DTYPES[datatype_of(array)])
        return np.ascontiguousarray(array, dtype).tobytes()
    encoded = [str(value).encode() for value in array.ravel().tolist()]
    return b"".join(struct.pack("<I", len(text)) + text for text in encoded)


def datatype_of(array: Array) -> str:
    """The protocol's datatype for an array."""
    return NAMES.get(array.dtype, BYTES)


def _check(entry: TensorIn, found: dict[str, Array]) -> None:
    if entry.name in found:
        raise InputError(f"'{entry.name[:80]}' appears twice.", field=entry.name[:80])
    if entry.datatype != BYTES and entry.datatype not in DTYPES:
        raise InputError(
            f"'{entry.name[:80]}' has the datatype '{entry.datatype[:40]}'.",
            field=entry.name,
            expected=f"one of {', '.join([*DTYPES, BYTES])}",
        )
    if not entry.shape or any(size < 0 for size in entry.shape) or len(entry.shape) > 8:
        raise InputError(
            f"'{entry.name[:80]}' has the shape {entry.shape[:8]}.",
            field=entry.name,
            expected="lengths that begin with the number of rows",
        )


def _slice(entry: TensorIn, tail: bytes, offset: int, size: Any) -> bytes:
    if isinstance(size, bool) or not isinstance(size, int) or size < 0 or offset + size > len(tail):
        raise InputError(
            f"'{entry.name}' declares {str(size)[:40]} bytes; {len(tail) - offset} are left.",
            field=entry.name,
        )
    if bytes(entry.data) not in (b"", b"null"):
        raise InputError(f"'{entry.name}' has both data and bytes.", field=entry.name)
    return tail[offset : offset + size]


def _from_bytes(entry: TensorIn, raw: bytes) -> Array:
    if entry.datatype == BYTES:
        return np.array(_texts(entry, raw), dtype=object)
    dtype = np.dtype(DTYPES[entry.datatype])
    if len(raw) % dtype.itemsize:
        raise InputError(
            f"'{entry.name}' has {len(raw)} bytes, which are no {entry.datatype} array.",
            field=entry.name,
        )
    if entry.datatype == "BOOL":
        return np.frombuffer(raw, np.uint8).astype(bool)
    return np.frombuffer(raw, dtype)


def _texts(entry: TensorIn, raw: bytes) -> list[str]:
    texts, offset = [], 0
    while offset < len(raw):
        (length,) = struct.unpack_from("<I", raw, offset) if offset + 4 <= len(raw) else (len(raw),)
        offset += 4
        if offset + length > len(raw):
            raise InputError(f"'{entry.name}' ends within a text.", field=entry.name)
        texts.append(_decoded(entry, raw[offset : offset + length]))
        offset += length
    return texts


def _decoded(entry: TensorIn, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"'{entry.name}' contains text that is not UTF-8.", field=entry.name
        ) from error


def _from_json(entry: TensorIn) -> Array:
    """JSON data as a flat array of the declared datatype; null is a missing value."""
    if (numbers := _plain_numbers(entry)) is not None:
        return numbers
    flat = _flat(_decoded_data(entry))
    if not isinstance(flat, list):
        raise InputError(f"'{entry.name}' has no data.", field=entry.name, expected="a list")
    if entry.datatype == BYTES or None in flat:
        return np.array([*flat, None], dtype=object)[:-1]
    dtype = np.dtype(DTYPES[entry.datatype])
    expected = bool if entry.datatype == "BOOL" else int if dtype.kind in "iu" else (int, float)
    for value in flat:
        if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
            raise InputError(
                f"'{entry.name}' contains {str(value)[:40]!r}, which is no {entry.datatype}.",
                field=entry.name,
            )
    try:
        return np.array(flat, dtype=dtype)
    except OverflowError as error:
        raise InputError(
            f"'{entry.name}' contains a number out of range for {entry.datatype}.", field=entry.name
        ) from error


def _plain_numbers(entry: TensorIn) -> Array | None:
    """A list of numbers, or of rows of numbers, as the declared FP64 or FP32; None if `data` is
    anything else."""
    if entry.datatype not in ("FP64", "FP32"):
        return None
    try:
        flat = _FLAT(entry.data)
    except (msgspec.DecodeError, ValueError, RecursionError):
        try:
            flat = [value for row in _ROWS(entry.data) for value in row]
        except (msgspec.DecodeError, ValueError, RecursionError):
            return None
    # struct takes a third of the time of numpy.array
    numbers = np.frombuffer(struct.pack(f"<{len(flat)}d", *flat), "<f8")
    if entry.datatype == "FP64":
        return numbers
    with np.errstate(over="ignore"):
        return numbers.astype("<f4")


def _decoded_data(entry: TensorIn) -> Any:
    try:
        return msgspec.json.decode(entry.data) if bytes(entry.data) else None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise MalformedError(f"The data of '{entry.name[:80]}' is not JSON: {error}.") from error


def _flat(data: Any) -> Any:
    """Nested lists flattened; anything else is returned as it is."""
    while isinstance(data, list) and data and all(isinstance(item, list) for item in data):
        data = [value for item in data for value in item]
    return data
