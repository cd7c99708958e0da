"""Native answers as bytes.

msgspec writes the numbers: it needs a twentieth of the time that Python needs for a float's text,
and gives the shortest one that reads back as the same double.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from tidemill.serving.codec.outputs import Outputs
from tidemill.signature import Label, Signature

UNRENAMEABLE = set('"\\') | {chr(i) for i in range(32)}


class LabelAnswer(msgspec.Struct, gc=False):
    """The answer to one row."""

    prediction: Label
    model: str
    version: str
    id: str


class ProbabilityAnswer(msgspec.Struct, gc=False):
    """The answer of a classifier that gives probabilities."""

    prediction: Label
    confidence: float
    probabilities: Any
    model: str
    version: str
    id: str


class LabelRow(msgspec.Struct, gc=False):
    """The answer to one row of many."""

    prediction: Label
    id: str


class ProbabilityRow(msgspec.Struct, gc=False):
    """The same, of a classifier that gives probabilities."""

    prediction: Label
    confidence: float
    probabilities: Any
    id: str


class BatchAnswer(msgspec.Struct, gc=False):
    """The answer to many rows."""

    predictions: list[Any]
    model: str
    version: str
    id: str


class AnswerEncoder:
    """Writes the native answers of one version."""

    def __init__(self, signature: Signature, model: str, version: str) -> None:
        self._labels = signature.labels
        self._spread = by_label(signature.labels)
        self._model = model
        self._version = version
        self._encode = msgspec.json.Encoder().encode

    def one(self, outputs: Outputs, place: int, call_id: str) -> bytes:
        """The answer to one row."""
        if outputs.labels is None:
            value = outputs.value_list[place]
            return self._encode(LabelAnswer(value, self._model, self._version, call_id))
        index = outputs.label_list[place]
        label = self._labels[index]
        if outputs.probabilities is None:
            return self._encode(LabelAnswer(label, self._model, self._version, call_id))
        row = outputs.probability_rows[place]
        return self._encode(
            ProbabilityAnswer(
                label, row[index], self._spread(row), self._model, self._version, call_id
            )
        )  # fmt: skip

    def many(self, outputs: Outputs, start: int, stop: int, call_id: str) -> bytes:
        """The answers to the rows `start` to `stop`, each with an id of its own."""
        ids = row_ids(call_id, stop - start)
        return self._encode(
            BatchAnswer(self._rows(outputs, start, stop, ids), self._model, self._version, call_id)
        )

    def _rows(self, outputs: Outputs, start: int, stop: int, ids: list[str]) -> list[Any]:
        if outputs.labels is None:
            return list(map(LabelRow, outputs.value_list[start:stop], ids))
        labels, spread = self._labels, self._spread
        indices = outputs.label_list[start:stop]
        if outputs.probabilities is None:
            return [LabelRow(labels[i], row_id) for i, row_id in zip(indices, ids, strict=True)]
        shares = outputs.probability_rows[start:stop]
        return [
            ProbabilityRow(labels[i], row[i], spread(row), row_id)
            for i, row, row_id in zip(indices, shares, ids, strict=True)
        ]


def by_label(labels: tuple[Label, ...]) -> Callable[[list[float]], Any]:
    """A function that makes an object {label: share} of a row of shares, for msgspec to encode."""
    names = [label_text(label) for label in labels]
    if len(set(names)) < len(names) or any(set(name) & UNRENAMEABLE for name in names):
        return lambda row: dict(zip(names, row, strict=True))
    fields = [f"p{i}" for i in range(len(names))]
    spread: Any = msgspec.defstruct(
        "Probabilities",
        [(field, float) for field in fields],
        rename=dict(zip(fields, names, strict=True)),
        gc=False,
    )
    return lambda row: spread(*row)


def label_text(label: Label) -> str:
    """A label as a JSON object's key."""
    if isinstance(label, bool):
        return "true" if label else "false"
    return str(label)


def row_ids(call_id: str, rows: int) -> list[str]:
    """The prediction id of each row: the call's own for one, `<id>-<i>` in a batch."""
    return [call_id] if rows == 1 else [f"{call_id}-{i}" for i in range(rows)]
