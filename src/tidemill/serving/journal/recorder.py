"""What the journal is told of answers: the journal's side of a predictor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tidemill.errors import SettingsError, UnavailableError
from tidemill.serving.codec.outputs import Array, Outputs
from tidemill.serving.codec.tensor_encoder import TensorEncoder
from tidemill.serving.journal.journal import Journal, ModelRule, is_sampled
from tidemill.serving.journal.records import Encoding, JournalRun
from tidemill.serving.model.batching import BatchItem

NO_INPUTS: tuple[None, Encoding] = (None, "none")


class PredictionRecorder:
    """Writes down the answers of one version.

    Args:
        buffer: The predictor's buffer [rows, width], where works without rows of their own lie.
    """

    def __init__(
        self, journal: Journal, name: str, version: str, packer: TensorEncoder, buffer: Array
    ) -> None:
        self._journal = journal
        self._name = name
        self._version = version
        rule = journal.rule(name)
        self._sample, self._inputs = rule.sample, rule.inputs
        self._packer = packer
        self._labels = packer.signature.labels
        self._buffer = buffer
        self._floats = buffer.dtype != np.int64
        self._view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        self._row_bytes = buffer.itemsize * packer.width
        self._encoding: Encoding = "f4" if buffer.itemsize == 4 else "f8"

    def check(self) -> None:
        """Before any work: refuse when the journal does.

        Raises:
            UnavailableError: The journal is full and its policy is to refuse.
        """
        if self._journal.refusing:
            raise journal_full()

    def write(
        self, works: Sequence[BatchItem], outputs: Outputs, role: str, now: tuple[float, float]
    ) -> None:
        """Record works of one run, whose answers lie in its outputs from `work.start` on.

        Args:
            works: In the order of their answers; some of the run's may be missing.
            now: The wall clock and the monotonic one.
        """
        share = self._sample
        if share < 1.0:
            works = [work for work in works if is_sampled(work.request.id, share)]
            if not works:
                return
        ids, counts, latencies, request_ids, key_ids = [], [], [], [], []
        total = 0
        moment = now[1]
        for work in works:  # one loop, for each comprehension would be a call
            request, count = work.request, work.count
            admission = request.admission
            total += count
            ids.append(request.id)
            counts.append(count)
            latencies.append(moment - request.started)
            request_ids.append(admission.request_id)
            key_ids.append(admission.key_id)
        whole = works[-1].start + count == total
        features, encoding = self._features(works, whole) if self._inputs else NO_INPUTS
        found, likely = self._answers(works, outputs, total if whole else None)
        run = JournalRun(
            now[0], self._name, self._version, role, share, encoding, ids, counts, latencies,
            request_ids, key_ids, features, found, likely,
        )  # fmt: skip
        self._journal.add(run)

    def _features(self, works: Sequence[BatchItem], whole: bool) -> tuple[Any, Encoding]:
        """The rows of the works, one after the other."""
        if works[0].rows is None:
            if whole and self._floats:
                return bytes(self._view[: len(works) * self._row_bytes]), self._encoding
            rows = self._buffer[[work.start for work in works]]
            return rows.astype(f"<{self._encoding}", copy=False).tobytes(), self._encoding
        parts = [self._packer.features(work.rows) for work in works if work.rows is not None]
        encoding = parts[0][1]
        if encoding == "values":
            return [row for rows, _ in parts for row in rows], encoding
        return b"".join(rows for rows, _ in parts), encoding  # type: ignore[misc]

    def _answers(
        self, works: Sequence[BatchItem], outputs: Outputs, first: int | None
    ) -> tuple[list[Any], bytes | None]:
        """Labels or numbers, and probabilities: the first few of the run's, or the works' own."""
        labels = self._labels
        found = [labels[i] for i in outputs.label_list] if labels else outputs.value_list
        likely = None if outputs.probabilities is None else outputs.float_bytes
        if first == len(found):
            return found, likely
        if first is None:
            return _picked(works, found, 1), _picked(works, likely, outputs.likely_bytes)
        return found[:first], None if likely is None else likely[: first * outputs.likely_bytes]


def _picked(works: Sequence[BatchItem], held: Any, per_row: int) -> Any:
    """What is the works' own of a list, or of bytes, for all rows of their run."""
    if held is None:
        return None
    parts = [held[w.start * per_row : (w.start + w.count) * per_row] for w in works]
    return b"".join(parts) if isinstance(held, bytes) else [x for part in parts for x in part]


def journal_full() -> UnavailableError:
    return UnavailableError(
        "The journal is full, and predictions that cannot be recorded are refused.",
        remedy="Let ingest run, or raise TIDEMILL_JOURNAL_MAX_BYTES.",
    )


def read_rules(text: str, general: ModelRule) -> dict[str, ModelRule]:
    """TIDEMILL_JOURNAL_RULES as rules by model; what an entry leaves out is as in `general`.

    Raises:
        SettingsError: An entry is not `name=share` or `name=share:noinputs`.
    """
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    return dict(_read_rule(entry, general) for entry in entries)


def _read_rule(entry: str, rule: ModelRule) -> tuple[str, ModelRule]:
    name, _, value = entry.rpartition("=")
    share, _, inputs = value.partition(":")
    try:
        sample = float(share) if share else rule.sample
    except ValueError:
        sample = -1.0
    if not name or not 0 <= sample <= 1 or inputs not in ("", "inputs", "noinputs"):
        raise SettingsError(
            f"TIDEMILL_JOURNAL_RULES holds '{entry}'.",
            field="TIDEMILL_JOURNAL_RULES",
            expected="name=share or name=share:noinputs, the share between 0 and 1",
        )
    return name, ModelRule(sample, inputs == "inputs" if inputs else rule.inputs)
