"""The format of a segment: its header, its frames, and the search for frames after damage.

A segment is one file, appended to by one process:

    header   magic (8) | seed (4, random for each process) | CRC-32 of both (4)
    frames   marker (4) | length (4) | inverted length (4)
             | Adler-32 of the payload, started at the seed (4) | payload

with little-endian integers. A payload is the list of `JournalRun` of one commit, in MessagePack.
The seed is also in the file's name, so that damage to the header costs no frame. It prevents a
client from hiding a valid frame inside a string that it sends. The inverted length tells a frame
that was cut off by the end of the file, and was never acknowledged, from a damaged length.

Segments of older formats have other magics and no CRC-32, no inverted length and no seed in the
name. In the first, the payload is a list of `JournalRecord` and its checksum a CRC-32.

See decisions 040, 130 and 194.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np

from tidemill.serving.journal.record_types import JournalRecord, JournalRun

MAGIC = b"TMJRNL3\n"
FAMILY = b"TMJRNL"
MARKER = b"\xf5\x9fTM"
SUFFIX = ".journal"
INVERSION = 0xFFFFFFFF
HEADER = struct.Struct("<8sII")
OLD_HEADER = struct.Struct("<8sI")
FRAME = struct.Struct("<4sIII")
OLD_FRAME = struct.Struct("<4sII")
pack_frame_head = FRAME.pack  # with a name of its own, because the writer's time counts
ADLER_MODULUS = 65521
CRC_PASSES = 16  # a search reads a segment of the first format no more often than this

TRIPLE = np.dtype((np.int64, 3))


class SegmentFormat(NamedTuple):
    """How the frames of segments with one magic are read.

    Attributes:
        checksum: Of a payload, from a seed.
        checksums: Of many parts of a buffer: (view, starts, ends, seed).
    """

    frame: struct.Struct
    checksum: Callable[[memoryview, int], int]
    checksums: Callable[[memoryview, Any, Any, int], Any]
    decode: Callable[[memoryview], list[JournalRecord]]


class SegmentHead(NamedTuple):
    """What is known of a segment before its frames are read; `start` is where they start."""

    format: SegmentFormat
    seed: int
    start: int

    def frame_end(self, view: memoryview, position: int) -> int | None:
        """Where the frame at `position` ends by its own header, which may be beyond the view.

        Returns:
            None if there is no whole frame header.
        """
        frame = self.format.frame
        if position + frame.size > len(view):
            return None
        marker, length, *rest = frame.unpack_from(view, position)
        if marker != MARKER or (len(rest) == 2 and rest[0] != length ^ INVERSION):
            return None
        return position + frame.size + int(length)

    def intact_end(self, view: memoryview, position: int) -> int | None:
        """Where the frame at `position` ends; None if there is no complete, valid frame."""
        end = self.frame_end(view, position)
        if end is None or end > len(view):
            return None
        body = position + self.format.frame.size
        expected = self.format.frame.unpack_from(view, position)[-1]
        return end if self.format.checksum(view[body:end], self.seed) == expected else None

    def is_torn(self, view: memoryview, position: int) -> bool:
        """Whether the rest of a file is the beginning of a frame, as a killed writer leaves it.

        In the old formats it cannot be told from damage.
        """
        if self.format.frame is OLD_FRAME:
            return False
        end = self.frame_end(view, position)
        if end is not None:
            return end > len(view)
        rest = bytes(view[position : position + len(MARKER)])
        return len(view) - position < FRAME.size and MARKER.startswith(rest)

    def frames(self, data: bytes) -> Iterator[tuple[int, int]]:
        """All valid frames in the data, in order; frames that contain each other too.

        The time is linear in the size of the data, also if it is full of what looks like the start
        of a long frame.
        """
        view = memoryview(data)
        found: Any = np.fromiter(self._complete(data), TRIPLE)
        starts, ends, expected = found.reshape(-1, 3).T
        bodies = starts + self.format.frame.size
        valid = self.format.checksums(view, bodies, ends, self.seed) == expected
        return zip(starts[valid].tolist(), ends[valid].tolist(), strict=True)

    def _complete(self, data: bytes) -> Iterator[tuple[int, int, int]]:
        """Start, end and expected checksum of every frame that ends within the data."""
        view = memoryview(data)
        position = data.find(MARKER)
        while position >= 0:
            end = self.frame_end(view, position)
            if end is not None and end <= len(view):
                yield position, end, self.format.frame.unpack_from(view, position)[-1]
            position = data.find(MARKER, position + 1)


def segment_name(stamp: int, writer: str, seed: int, sequence: int) -> str:
    """The name of a new segment; names sort by their creation time in microseconds."""
    return f"{stamp:016d}-{writer}-{seed:08x}-{sequence:06d}{SUFFIX}"


def segment_header(seed: int) -> bytes:
    """The header of a new segment."""
    return HEADER.pack(MAGIC, seed, zlib.crc32(OLD_HEADER.pack(MAGIC, seed)))


def identify(name: str, header: bytes) -> SegmentHead | None:
    """The format and the seed of a segment; None if neither its header nor its name tells them.

    Raises:
        OSError: It was written by a newer Tidemill.
    """
    magic, seed, check = HEADER.unpack(header.ljust(HEADER.size, b"\0"))
    if magic.startswith(FAMILY) and zlib.crc32(header[: OLD_HEADER.size]) == check:
        if magic != MAGIC:
            raise OSError("it was written by a newer Tidemill")
        return SegmentHead(NEWEST, seed, HEADER.size)
    if named := SEED_IN_NAME.search(name):
        return SegmentHead(NEWEST, int(named[1], 16), 0)
    old = OLD_FORMATS.get(magic)
    return SegmentHead(old, seed, OLD_HEADER.size) if old else None


def _adler32s(view: memoryview, starts: Any, ends: Any, seed: int) -> Any:
    """The Adler-32 of each part, in one pass over the data.

    Both sums of an Adler-32 are linear in the bytes, so that of a part follows from those of the
    data up to its start and up to its end.
    """
    cuts = np.unique(np.concatenate([starts, ends]))
    sums = np.fromiter(_running_adler32(view, cuts.tolist()), np.int64, len(cuts))
    first, last = (sums[np.searchsorted(cuts, at)] for at in (starts, ends))
    low, high = seed & 0xFFFF, seed >> 16
    sizes = (ends - starts) % ADLER_MODULUS
    a = ((last & 0xFFFF) - (first & 0xFFFF) + low) % ADLER_MODULUS
    b = ((last >> 16) - (first >> 16) + high + sizes * (low - (first & 0xFFFF))) % ADLER_MODULUS
    return b << 16 | a


def _running_adler32(view: memoryview, cuts: list[int]) -> Iterator[int]:
    total = before = 0
    for cut in cuts:
        total = zlib.adler32(view[before:cut], total)
        before = cut
        yield total


def _crc32s(view: memoryview, starts: Any, ends: Any, seed: int) -> Any:
    """The CRC-32 of each part, as far as `CRC_PASSES` over the data suffice; -1 for the others."""
    affordable = np.cumsum(ends - starts) <= CRC_PASSES * len(view)
    pairs = zip(starts[affordable].tolist(), ends[affordable].tolist(), strict=True)
    found = np.full(len(starts), -1, np.int64)
    found[affordable] = [zlib.crc32(view[start:end], seed) for start, end in pairs]
    return found


def _decode_runs(payload: memoryview) -> list[JournalRecord]:
    return [record for run in _RUNS(payload) for record in run.records()]


SEED_IN_NAME = re.compile(r"-([0-9a-f]{8})-\d{6}\.journal$")
_RUNS = msgspec.msgpack.Decoder(list[JournalRun]).decode
NEWEST = SegmentFormat(FRAME, zlib.adler32, _adler32s, _decode_runs)
OLD_FORMATS = {
    b"TMJRNL2\n": SegmentFormat(OLD_FRAME, zlib.adler32, _adler32s, _decode_runs),
    b"TMJRNL1\n": SegmentFormat(
        OLD_FRAME, zlib.crc32, _crc32s, msgspec.msgpack.Decoder(list[JournalRecord]).decode
    ),
}
