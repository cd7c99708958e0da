"""Windows: predictions in columns, the form that monitoring and retraining use."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tidemill.signature import Column, Label, Signature

if TYPE_CHECKING:  # a third of a program's start-up time, and most build no window
    import pandas as pd

#: The columns that a query for a window selects, in this order.
FIELDS = (
    "id", "time", "version", "role", "encoding", "features", "output", "probabilities",
    "confidence", "weight", "actual", "joined",
)  # fmt: skip
_DTYPES = {"number": "float64", "integer": "int64", "boolean": "bool", "datetime": "float64"}


@dataclass(frozen=True)
class Window:
    """Predictions of one model, oldest first.

    Attributes:
        ids: [rows] prediction ids.
        times: [rows] the time of the prediction, in seconds since the epoch.
        versions: [rows] the version that predicted.
        frame: [rows, columns] the inputs under the signature's names (a tensor's numbers are name0,
            name1, ...), typed as in training: number = float64, integer = int64, boolean = bool,
            text = object with NaN where missing. None if no row's inputs are known.
        outputs: [rows] the predicted label or number.
        confidence: [rows] the probability of the predicted label; NaN where there is none.
        probabilities: [rows, labels]; None for regressors and if versions have different labels.
        labels: The labels of the newest version in the window; () for regressors.
        actual: [rows] the true label or number; None where it is not known.
        label_times: [rows] when both the label and its prediction had arrived, in seconds since the
            epoch; NaN where there is no label.
        weights: [rows] how many predictions the row stands for: 1 / the share that is recorded.
        roles: [rows] champion, shadow or canary.
        stored: [rows] whether the row's inputs are known; otherwise its row in `frame` is missing
            values only.
        signature: The signature of the newest version in the window whose signature is known.
    """

    model: str
    ids: NDArray[np.object_]
    times: NDArray[np.float64]
    versions: NDArray[np.object_]
    frame: pd.DataFrame | None
    outputs: NDArray[np.object_]
    confidence: NDArray[np.float64]
    probabilities: NDArray[np.float64] | None
    labels: tuple[Label, ...]
    actual: NDArray[np.object_]
    label_times: NDArray[np.float64]
    weights: NDArray[np.float64]
    roles: NDArray[np.object_]
    stored: NDArray[np.bool_]
    signature: Signature | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """[rows] whether the truth is known."""
        return ~np.isnan(self.label_times)


def make_window(
    model: str, rows: Sequence[Sequence[Any]], signatures: Mapping[str, Signature]
) -> Window:
    """Build a window of rows of `FIELDS`, oldest first.

    Args:
        signatures: By version; versions with an unknown signature are absent.
    """
    fields = dict(zip(FIELDS, zip(*rows, strict=True), strict=True)) if rows else {}
    columns: dict[str, Sequence[Any]] = {name: fields.get(name, ()) for name in FIELDS}
    versions = _objects(columns["version"])
    newest = next((signatures[v] for v in reversed(columns["version"]) if v in signatures), None)
    labels = newest.labels if newest is not None else ()
    frame, stored = _frame(columns, versions, signatures)
    return Window(
        model=model,
        ids=_objects(columns["id"]),
        times=np.array(columns["time"], np.float64),
        versions=versions,
        frame=frame,
        outputs=_objects(_decoded(columns["output"])),
        confidence=np.array(columns["confidence"], np.float64),
        probabilities=_probabilities(columns, labels, signatures),
        labels=labels,
        actual=_objects(_decoded(columns["actual"])),
        label_times=np.array(columns["joined"], np.float64),
        weights=np.array(columns["weight"], np.float64),
        roles=_objects(columns["role"]),
        stored=stored,
        signature=newest,
    )


def column_names(signature: Signature) -> list[str]:
    """Return the column names of a window's frame."""
    tensor = signature.tensor
    if tensor is None:
        return list(signature.names)
    return [f"{tensor.name}{index}" for index in range(tensor.size)]


def decode_row(row: Mapping[str, Any], signature: Signature | None) -> dict[str, Any]:
    """Decode a row of the table, with its label, to plain values.

    `features` become a dictionary by name, or a list if the signature is not known.
    """
    values = _row_values(row["features"], row["encoding"])
    names = column_names(signature) if signature is not None else []
    named = values is not None and len(values) == len(names) and not _is_tensor(signature)
    probabilities = row["probabilities"]
    return {
        **row,
        "features": dict(zip(names, values or (), strict=True)) if named else values,
        "output": msgspec.json.decode(row["output"]),
        "probabilities": _float_list(probabilities),
        "actual": None if row["actual"] is None else msgspec.json.decode(row["actual"]),
    }


def _float_list(stored: bytes | None) -> list[float] | None:
    return None if stored is None else np.frombuffer(stored, "<f4").tolist()


def _row_values(stored: bytes | None, encoding: str) -> list[Any] | None:
    if stored is None:
        return None
    if encoding == "values":
        decoded: list[Any] = msgspec.json.decode(stored)
        return decoded
    numbers: list[float] = np.frombuffer(stored, f"<{encoding}").tolist()
    return [None if math.isnan(number) else number for number in numbers]


def _is_tensor(signature: Signature | None) -> bool:
    return signature is not None and signature.tensor is not None


def _objects(values: Sequence[Any]) -> NDArray[np.object_]:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _decoded(texts: Sequence[str | None]) -> list[Any]:
    """Decode JSON scalars in one call."""
    whole: list[Any] = msgspec.json.decode(f"[{','.join(t or 'null' for t in texts)}]")
    return whole


def _probabilities(
    columns: Mapping[str, Sequence[Any]],
    labels: tuple[Label, ...],
    signatures: Mapping[str, Signature],
) -> NDArray[np.float64] | None:
    stored = columns["probabilities"]
    size = 4 * len(labels)
    if not labels or any(p is None or len(p) != size for p in stored):
        return None
    versions = set(columns["version"])
    if any(v not in signatures or signatures[v].labels != labels for v in versions):
        return None
    return np.frombuffer(b"".join(stored), "<f4").reshape(len(stored), -1).astype(np.float64)


def _frame(
    columns: Mapping[str, Sequence[Any]],
    versions: NDArray[np.object_],
    signatures: Mapping[str, Signature],
) -> tuple[pd.DataFrame | None, NDArray[np.bool_]]:
    import pandas as pd

    stored = np.zeros(len(versions), bool)
    parts = list(_parts(columns, versions, signatures))
    if not parts:
        return None, stored
    for positions, _ in parts:
        stored[positions] = True
    frame = parts[0][1] if len(parts) == 1 else pd.concat([part for _, part in parts])
    positions = np.concatenate([positions for positions, _ in parts])
    if np.array_equal(positions, np.arange(len(versions))):
        return frame, stored
    return frame.set_axis(positions).reindex(np.arange(len(versions))), stored


def _parts(
    columns: Mapping[str, Sequence[Any]],
    versions: NDArray[np.object_],
    signatures: Mapping[str, Signature],
) -> Iterator[tuple[NDArray[np.intp], pd.DataFrame]]:
    """Yield the rows of each version and encoding, as their positions and a frame."""
    encodings = _objects(columns["encoding"])
    features = columns["features"]
    for version, encoding in dict.fromkeys(zip(columns["version"], encodings, strict=True)):
        signature = signatures.get(version)
        if signature is None or encoding == "none":
            continue
        positions = np.flatnonzero((versions == version) & (encodings == encoding))
        inputs = [features[position] for position in positions.tolist()]
        frame = _decode_inputs(inputs, encoding, signature)
        if frame is not None:
            yield positions, frame.set_axis(positions)


def _decode_inputs(
    stored: Sequence[bytes], encoding: str, signature: Signature
) -> pd.DataFrame | None:
    """Decode inputs of one version and encoding; None if they do not fit the signature."""
    import pandas as pd

    names = column_names(signature)
    if encoding == "values":
        rows = msgspec.json.decode(b"[" + b",".join(stored) + b"]")
        if any(len(row) != len(names) for row in rows):
            return None
        values = list(zip(*rows, strict=True))
        kinds = signature.columns or [Column(name, "number") for name in names]
        return pd.DataFrame({c.name: _typed(v, c) for c, v in zip(kinds, values, strict=True)})
    matrix = np.frombuffer(b"".join(stored), f"<{encoding}").reshape(len(stored), -1)
    if matrix.shape[1] != len(names):
        return None
    if signature.tensor is not None:
        return pd.DataFrame(matrix, columns=names)
    frame = pd.DataFrame(matrix.astype(np.float64), columns=names)
    exact = {c.name: _DTYPES[c.kind] for c in signature.columns if c.kind in ("integer", "boolean")}
    return frame.astype({n: dtype for n, dtype in exact.items() if frame[n].notna().all()})


def _typed(values: Sequence[Any], column: Column) -> pd.Series[Any]:
    import pandas as pd

    gaps = any(value is None for value in values)
    if column.kind == "text":
        texts = [np.nan if value is None else value for value in values] if gaps else values
        return pd.Series(list(texts), dtype=object)
    return pd.Series(
        np.array(values, np.float64) if gaps else np.array(values, _DTYPES[column.kind])
    )
