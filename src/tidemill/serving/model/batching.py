"""Batches the rows of several requests into one run of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from tidemill.serving.codec.outputs import Array, Outputs
from tidemill.serving.codec.tensor_encoder import EncodedRows
from tidemill.serving.http.routes import Request, Response

#: Builds the response to a request from `outputs[start:stop]`.
MakeResponse = Callable[[Request, Outputs, int, int], Response]


class LatencyEstimate(msgspec.Struct, frozen=True):
    """What warm-up measured: a run takes `fixed + rows * per_row` seconds.

    Attributes:
        pad: A single row gives other last digits than the same row in a batch (matrix products take
            another path). It is then run twice over, so that every request gets the same digits.
    """

    fixed: float = 0.0
    per_row: float = 0.0
    pad: bool = False

    def seconds(self, rows: int) -> float:
        """The expected time of a run, in seconds."""
        return self.fixed + rows * self.per_row


class BatchItem(msgspec.Struct):
    """A request's rows and what becomes of them.

    Attributes:
        rows: None while the only row is in the predictor's buffer.
        count: Number of rows.
        cache_key: Identifies the rows in the cache.
        cache_tier: The cache tier that had the answer, if one had.
        timed_out: The request was already answered with a timeout.
        alone: To be run separately, because a run with others failed.
        start: Index of its first row in the run's outputs.
        response: None for a shadow challenger's item, which is only recorded.
    """

    request: Request
    rows: EncodedRows | None
    count: int
    make_response: MakeResponse
    cache_key: bytes | None = None
    cache_tier: str | None = None
    timed_out: bool = False
    alone: bool = False
    start: int = 0
    response: Response | None = None


class BatchQueue:
    """Items that wait for a model, oldest first."""

    def __init__(self) -> None:
        self.rows = 0
        self._items: list[BatchItem] = []

    def __bool__(self) -> bool:
        return bool(self._items)

    def add(self, item: BatchItem) -> None:
        self._items.append(item)
        self.rows += item.count

    def requeue(self, items: Sequence[BatchItem]) -> None:
        """Put the items of a failed run back at the front, each to be run separately."""
        for item in items:
            item.alone = True
        self._items[:0] = items
        self.rows += sum(item.count for item in items)

    def next_batch(self, room: int) -> list[BatchItem]:
        """Remove and return the oldest items: at most `room` rows in all, but at least one item."""
        rows = count = 0
        for item in self._items:
            if count and (item.alone or rows + item.count > room):
                break
            rows += item.count
            count += 1
            if item.alone:
                break
        batch = self._items[:count]
        del self._items[:count]
        self.rows -= rows
        return batch

    def pop_overdue(self, moment: float) -> list[BatchItem]:
        """Remove and return the items whose requests arrived before a monotonic time."""
        late = [item for item in self._items if item.request.started < moment]
        if late:
            self._items = [item for item in self._items if item.request.started >= moment]
            self.rows -= sum(item.count for item in late)
        return late


def concatenate(items: Sequence[BatchItem], pad: bool) -> list[Array]:
    """Join the arrays of several items into those of one run; a single row may need padding."""
    parts = [item.rows.arrays for item in items if item.rows is not None]
    if len(parts) == 1:
        arrays = parts[0]
    else:
        arrays = [np.concatenate(same) for same in zip(*parts, strict=True)]
    return pad_single_row(arrays, sum(item.count for item in items), pad)


def pad_single_row(arrays: list[Array], count: int, pad: bool) -> list[Array]:
    """Double the only row, if `pad` is set."""
    return [np.concatenate((a, a)) for a in arrays] if pad and count == 1 else arrays
