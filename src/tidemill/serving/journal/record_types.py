"""Records of answered requests: `JournalRecord` as read, `JournalRun` as written.

Requests answered by the same run of a model share most of their fields, so a run is written as
columns: rows, labels and probabilities are the bytes and lists of the whole run, and only ids and
times are per request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from tidemill.signature import Label, Value

Encoding = Literal["none", "f4", "f8", "values"]


class JournalRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One answered request: one row, or the rows of a batch.

    Attributes:
        id: The prediction id; row `i` of a batch has the id `<id>-<i>` (see `row_ids`). A shadow
            challenger answers under the same id, so that one label scores both answers.
        time: When the request was answered, in seconds since the epoch.
        rows: Number of predicted rows.
        encoding: How `features` stores the inputs, with columns in the order of the signature:
            `f4` or `f8` for the bytes of a C-ordered little-endian matrix [rows, columns],
            `values` for a list of rows, `none` if inputs are not recorded.
        predictions: One label or number per row.
        probabilities: For classifiers the bytes of a little-endian float32 matrix [rows, labels],
            in the order of the signature's labels; None for regressors.
        latency: Seconds from the request's arrival to its answer.
        key_id: Id of the API key; None without authentication.
        role: `champion`, or `shadow` or `canary` for a challenger's answer.
        sample: The share of requests that is recorded; each record stands for 1 / sample requests.
    """

    id: str
    time: float
    model: str
    version: str
    rows: int
    encoding: Encoding
    features: bytes | list[list[Value]] | None
    predictions: list[Label]
    probabilities: bytes | None
    latency: float
    request_id: str | None = None
    key_id: str | None = None
    role: str = "champion"
    sample: float = 1.0

    def row_ids(self) -> list[str]:
        """The prediction id of each row: the record's own id, or `<id>-<i>` in a batch."""
        return [self.id] if self.rows == 1 else [f"{self.id}-{i}" for i in range(self.rows)]

    def inputs(self) -> list[list[Value]] | None:
        """The rows as plain values (NaN stays NaN); None if inputs were not recorded."""
        if not isinstance(self.features, bytes):
            return self.features
        matrix = np.frombuffer(self.features, dtype=f"<{self.encoding}")
        rows: list[list[Value]] = matrix.reshape(self.rows, -1).tolist()
        return rows

    def probability_rows(self) -> list[list[float]] | None:
        """The probabilities as [rows][labels]; None for regressors."""
        if self.probabilities is None:
            return None
        matrix = np.frombuffer(self.probabilities, dtype="<f4")
        rows: list[list[float]] = matrix.reshape(self.rows, -1).tolist()
        return rows


class JournalRun(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Requests that one version answered in one run, as columns; fields as in `JournalRecord`.

    Attributes:
        ids, latencies, request_ids, key_ids: One per request.
        rows: Number of rows of each request.
        features, predictions, probabilities: Of all rows, request after request.
    """

    time: float
    model: str
    version: str
    role: str
    sample: float
    encoding: Encoding
    ids: list[str]
    rows: list[int]
    latencies: list[float]
    request_ids: list[str | None]
    key_ids: list[str | None]
    features: bytes | list[list[Value]] | None
    predictions: list[Label]
    probabilities: bytes | None

    @classmethod
    def of(cls, record: JournalRecord) -> JournalRun:
        """A run with a single request."""
        return cls(
            record.time, record.model, record.version, record.role, record.sample, record.encoding,
            [record.id], [record.rows], [record.latency], [record.request_id], [record.key_id],
            record.features, record.predictions, record.probabilities,
        )  # fmt: skip

    def records(self) -> Iterator[JournalRecord]:
        """The records of its requests.

        Raises:
            ValueError: The columns differ in length.
        """
        if len(self.ids) == 1:  # unchecked, so that ingest can show what is wrong with it
            yield self._single()
            return
        total = sum(self.rows)
        if len(self.predictions) != total:
            raise ValueError(f"{len(self.predictions)} predictions for {total} rows")
        per_row = _per_row(self.features, total), _per_row(self.probabilities, total)
        start = 0
        for id, rows, latency, request_id, key_id in zip(
            self.ids, self.rows, self.latencies, self.request_ids, self.key_ids, strict=True
        ):
            stop = start + rows
            yield JournalRecord(
                id, self.time, self.model, self.version, rows, self.encoding,
                _part(self.features, per_row[0], start, stop), self.predictions[start:stop],
                _part(self.probabilities, per_row[1], start, stop), latency, request_id, key_id,
                self.role, self.sample,
            )  # fmt: skip
            start = stop

    def _single(self) -> JournalRecord:
        return JournalRecord(
            self.ids[0], self.time, self.model, self.version, self.rows[0], self.encoding,
            self.features, self.predictions, self.probabilities, self.latencies[0],
            self.request_ids[0], self.key_ids[0], self.role, self.sample,
        )  # fmt: skip


def _per_row(column: Sequence[Any] | None, rows: int) -> int:
    """How many bytes, or list items, belong to a row."""
    size, rest = divmod(len(column or b""), max(1, rows))
    if rest:
        raise ValueError(f"{len(column or b'')} values or bytes for {rows} rows")
    return size


def _part(column: Any, per_row: int, start: int, stop: int) -> Any:
    return None if column is None else column[start * per_row : stop * per_row]
