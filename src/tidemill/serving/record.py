"""What the journal is told of an answer: the journal's side of a predictor."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from tidemill.errors import SettingsError, UnavailableError
from tidemill.serving.journal import Journal, ModelRule
from tidemill.serving.outputs import Array, Outputs
from tidemill.serving.pack import Packer
from tidemill.serving.segments import Encoding
from tidemill.serving.work import Work


class Recorder:
    """Writes down the answers of one version.

    Args:
        buffer: The predictor's buffer [rows, width], where works without rows of their own lie.
    """

    def __init__(
        self, journal: Journal, name: str, version: str, packer: Packer, buffer: Array
    ) -> None:
        self._journal = journal
        self._add = journal.add
        self.role = "champion"
        self._name = name
        self._version = version
        rule = journal.rule(name)
        self._sample, self._inputs = rule.sample, rule.inputs
        self._packer = packer
        self._labels = packer.signature.labels
        self._buffer = buffer
        self._whole = buffer.dtype == np.int64
        self._view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        self._run: Outputs | None = None
        self._found: list[Any] = []
        self._rows = self._likely = b""
        self._width = 0
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
        self, work: Work, place: int, outputs: Outputs, start: int, stop: int,
        now: tuple[float, float],
    ) -> None:  # fmt: skip
        """Record a work, whose answers are `outputs[start:stop]`.

        Args:
            place: Its row in the buffer, where it has no rows of its own.
            now: The wall clock and the monotonic one.
        """
        if self._sample < 1.0 and random.random() >= self._sample:
            return
        if outputs is not self._run:
            self._begin(outputs)
        features: Any = None
        encoding: Encoding = "none"
        if self._inputs:
            if work.rows is None:
                offset = place * self._row_bytes
                self._rows = self._rows or self._copied()
                features = self._rows[offset : offset + self._row_bytes]
                encoding = self._encoding
            else:
                features, encoding = self._packer.features(work.rows)
        found, width = self._found[start:stop], self._width
        call = work.call
        admission = call.admission
        # A tuple is written as a Record is, and made in a third of its time.
        record: Any = (
            call.id, now[0], self._name, self._version, work.count, encoding, features,
            found, self._likely[start * width : stop * width] if width else None,
            now[1] - call.started, admission.request_id, admission.key_id, self.role, self._sample,
        )  # fmt: skip
        self._add(record)

    def _begin(self, outputs: Outputs) -> None:
        """Make of a run's outputs, once, what the records of its works are cut out of."""
        self._run = outputs
        self._rows = b""
        labels = self._labels
        self._found = [labels[i] for i in outputs.label_list] or outputs.value_list
        self._width = 0
        if outputs.probabilities is not None:
            self._width = 4 * outputs.probabilities.shape[1]
            self._likely = outputs.float_bytes(0, len(self._found))

    def _copied(self) -> bytes:
        """The rows of a run that lie in the buffer."""
        count = len(self._found)
        if self._whole:
            return self._buffer[:count].astype(np.float64).tobytes()
        return bytes(self._view[: count * self._row_bytes])


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
