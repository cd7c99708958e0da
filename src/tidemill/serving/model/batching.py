"""A request's rows on their way through a model, and how several requests become one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from tidemill.serving.codec.outputs import Array, Outputs
from tidemill.serving.codec.tensor_encoder import EncodedRows
from tidemill.serving.http.routes import Request, Response

#: Makes the reply for a call out of `outputs[start:stop]`.
MakeReply = Callable[[Request, Outputs, int, int], Response]


class LatencyEstimate(msgspec.Struct, frozen=True):
    """What warm-up measured, in seconds: a run costs `fixed + rows * per_row`.

    `pad` says that one row alone gives other last digits than the same row among others (matrix
    products take another path then), so that it is run twice, and everyone gets the same digits.
    """

    fixed: float = 0.0
    per_row: float = 0.0
    pad: bool = False

    def seconds(self, rows: int) -> float:
        return self.fixed + rows * self.per_row


class BatchItem(msgspec.Struct):
    """A request's rows. `rows` is None while the only row lies in the predictor's buffer; `key` is
    what the cache knows them by; `tier` says which tier knew the answer. `given_up` is set when the
    caller was told that it took too long, `alone` when a run with others failed. Its answers lie in
    its run's outputs from `start` on; `reply` tells them, unless nobody is to hear."""

    request: Request
    rows: EncodedRows | None
    count: int
    make_reply: MakeReply
    cache_key: bytes | None = None
    cache_tier: str | None = None
    timed_out: bool = False
    alone: bool = False
    start: int = 0
    response: Response | None = None


class BatchQueue:
    """Works that wait for a model, the oldest first."""

    def __init__(self) -> None:
        self.rows = 0
        self._works: list[BatchItem] = []

    def __bool__(self) -> bool:
        return bool(self._works)

    def add(self, work: BatchItem) -> None:
        self._works.append(work)
        self.rows += work.count

    def requeue(self, works: Sequence[BatchItem]) -> None:
        """Let works whose common run failed be next, each in a run of its own."""
        for work in works:
            work.alone = True
        self._works[:0] = works
        self.rows += sum(work.count for work in works)

    def next_batch(self, room: int) -> list[BatchItem]:
        """The oldest works that make at most `room` rows together, but at least one."""
        rows = count = 0
        for work in self._works:
            if count and (work.alone or rows + work.count > room):
                break
            rows += work.count
            count += 1
            if work.alone:
                break
        batch = self._works[:count]
        del self._works[:count]
        self.rows -= rows
        return batch

    def pop_overdue(self, moment: float) -> list[BatchItem]:
        """Take out the works whose calls came before a moment on the monotonic clock."""
        late = [work for work in self._works if work.request.started < moment]
        if late:
            self._works = [work for work in self._works if work.request.started >= moment]
            self.rows -= sum(work.count for work in late)
        return late


def concatenate(works: Sequence[BatchItem], pad: bool) -> list[Array]:
    """The arrays of several works as one run's, padded to two rows where one alone would differ."""
    parts = [work.rows.arrays for work in works if work.rows is not None]
    if len(parts) == 1:
        arrays = parts[0]
    else:
        arrays = [np.concatenate(same) for same in zip(*parts, strict=True)]
    return pad_single_row(arrays, sum(work.count for work in works), pad)


def pad_single_row(arrays: list[Array], count: int, pad: bool) -> list[Array]:
    """The arrays with their only row doubled, if `pad` asks for it."""
    return [np.concatenate((a, a)) for a in arrays] if pad and count == 1 else arrays
