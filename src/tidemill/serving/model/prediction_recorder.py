"""Turns a predictor's answers into journal records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tidemill.serving.codec.outputs import Array, Outputs
from tidemill.serving.codec.tensor_encoder import TensorEncoder
from tidemill.serving.journal.journal import Journal
from tidemill.serving.journal.policy import is_sampled, journal_full_error
from tidemill.serving.journal.record_types import Encoding, JournalRun
from tidemill.serving.model.batching import BatchItem

NO_INPUTS: tuple[None, Encoding] = (None, "none")


class PredictionRecorder:
    """Records the answers of one version.

    Args:
        buffer: The predictor's buffer [rows, width], which contains the rows of items without
            arrays of their own.
    """

    def __init__(
        self, journal: Journal, name: str, version: str, encoder: TensorEncoder, buffer: Array
    ) -> None:
        self._journal = journal
        self._name = name
        self._version = version
        rule = journal.rule(name)
        self._sample, self._inputs = rule.sample, rule.inputs
        self._encoder = encoder
        self._labels = encoder.signature.labels
        self._buffer = buffer
        self._floats = buffer.dtype != np.int64
        self._view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        self._row_bytes = buffer.itemsize * encoder.width
        self._encoding: Encoding = "f4" if buffer.itemsize == 4 else "f8"

    def check(self) -> None:
        """Refuse the request, before any work is done, if the journal refuses records.

        Raises:
            UnavailableError: The journal is full and its policy is `refuse`.
        """
        if self._journal.refusing:
            raise journal_full_error()

    def write(
        self, items: Sequence[BatchItem], outputs: Outputs, role: str, now: tuple[float, float]
    ) -> None:
        """Record the answered items of one run.

        Args:
            items: In the order of their rows; some of the run's items may be missing.
            outputs: Of the whole run; an item's answers start at `item.start`.
            now: The wall clock and the monotonic clock, in seconds.
        """
        share = self._sample
        if share < 1.0:
            items = [item for item in items if is_sampled(item.request.id, share)]
            if not items:
                return
        ids, counts, latencies, request_ids, key_ids = [], [], [], [], []
        total = 0
        moment = now[1]
        for item in items:  # one loop, because each comprehension would be a call
            request, count = item.request, item.count
            admission = request.admission
            total += count
            ids.append(request.id)
            counts.append(count)
            latencies.append(moment - request.started)
            request_ids.append(admission.request_id)
            key_ids.append(admission.key_id)
        whole = items[-1].start + count == total
        features, encoding = self._features(items, whole) if self._inputs else NO_INPUTS
        predictions, probabilities = self._answers(items, outputs, total if whole else None)
        run = JournalRun(
            now[0], self._name, self._version, role, share, encoding, ids, counts, latencies,
            request_ids, key_ids, features, predictions, probabilities,
        )  # fmt: skip
        self._journal.add(run)

    def _features(self, items: Sequence[BatchItem], whole: bool) -> tuple[Any, Encoding]:
        """The rows of the items, one after the other."""
        if items[0].rows is None:
            if whole and self._floats:
                return bytes(self._view[: len(items) * self._row_bytes]), self._encoding
            rows = self._buffer[[item.start for item in items]]
            return rows.astype(f"<{self._encoding}", copy=False).tobytes(), self._encoding
        parts = [
            self._encoder.journal_features(item.rows) for item in items if item.rows is not None
        ]
        encoding = parts[0][1]
        if encoding == "values":
            return [row for rows, _ in parts for row in rows], encoding
        return b"".join(rows for rows, _ in parts), encoding  # type: ignore[misc]

    def _answers(
        self, items: Sequence[BatchItem], outputs: Outputs, first: int | None
    ) -> tuple[list[Any], bytes | None]:
        """Labels or numbers, and probabilities, of the items.

        Args:
            first: The items are exactly the first rows of the run, this many; None if not.
        """
        labels = self._labels
        predictions = [labels[i] for i in outputs.label_list] if labels else outputs.value_list
        probabilities = None if outputs.probabilities is None else outputs.probability_bytes
        if first == len(predictions):
            return predictions, probabilities
        if first is None:
            row_bytes = outputs.probability_row_bytes
            return _select(items, predictions, 1), _select(items, probabilities, row_bytes)
        if probabilities is None:
            return predictions[:first], None
        return predictions[:first], probabilities[: first * outputs.probability_row_bytes]


def _select(items: Sequence[BatchItem], column: Any, per_row: int) -> Any:
    """The items' part of a list, or of bytes, that covers all rows of their run."""
    if column is None:
        return None
    parts = [column[i.start * per_row : (i.start + i.count) * per_row] for i in items]
    return b"".join(parts) if isinstance(column, bytes) else [x for part in parts for x in part]
