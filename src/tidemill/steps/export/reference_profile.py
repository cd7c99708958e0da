"""The reference profile of a model: its training data, and its answers on held-out rows.

Contents of `profile.json`, which `tidemill.steps.drift.check` compares live windows with:

    {"format": 1,
     "rows": 455,                            training rows
     "columns": {"radius": {"kind": "number", ...histogram, "sample": [...]}, ...},
     "output": {...histogram},               labels or values answered for held-out rows
     "confidence": {...histogram} | null,    probability of the answered label, on held-out rows
     "holdout": {...} | null}                metrics with their standard errors, calibration

Histograms (`tidemill.steps.drift.histogram`) have exact counts of all training rows. Numeric ones
have `edges`, `counts`, `minimum`, `maximum`, `mean`, `std` and `missing`; others have `counts` by
category, `other`, `singletons` and `missing`. `sample` has the same training rows for every column:
at most 1,000, drawn with a fixed seed, null where missing, numbers to seven digits.

The single numbers of a tensor mean little alone, so its profile has three summaries of each row
instead: mean, standard deviation and share of zeros, under names such as "image:mean" (see
`tensor_summaries`). See decisions 025 and 080.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd

from tidemill.signature import Signature, Tensor
from tidemill.steps.decay.holdout import measure_holdout
from tidemill.steps.drift.histogram import CATEGORIES, category_histogram, numeric_histogram
from tidemill.steps.export.model_io import InputRows, ModelPredictions

FORMAT = 1
SAMPLE_ROWS = 1000
SAMPLE_BYTES = 500_000  # of all columns together, where they are many
LEAST_ROWS = 100
NUMBER_BYTES = 11  # of seven digits in JSON
CHARACTERS = 8_000  # of the category texts that one histogram names
TEXT = 100  # characters of one text in the sample
SEED = 7

Floats = npt.NDArray[np.float64]


def make_profile(
    X_train: InputRows,
    signature: Signature,
    answers: ModelPredictions,
    *,
    y_test: npt.NDArray[Any] | None = None,
) -> dict[str, Any]:
    """Make the profile of a model's training data and of its answers.

    Args:
        X_train: What the model was fitted on: a DataFrame, or an array [rows, *shape].
        answers: Its answers on held-out rows; on training rows it would be overconfident.
        y_test: The held-out targets [rows].
    """
    columns = columns_of(X_train, signature)
    chosen = _chosen(len(X_train), sum(_width(values) for values in columns.values()))
    return {
        "format": FORMAT,
        "rows": len(X_train),
        "columns": {n: _column(n, values, signature, chosen) for n, values in columns.items()},
        "output": _output(answers, signature),
        "confidence": _confidence(answers),
        "holdout": _holdout(answers, signature, y_test),
    }


def columns_of(X: InputRows, signature: Signature) -> dict[str, npt.NDArray[Any]]:
    """Return the columns monitored for drift, by name: the signature's, or a tensor's summaries."""
    if signature.tensor is not None:
        return tensor_summaries(np.asarray(X), signature.tensor)
    assert isinstance(X, pd.DataFrame)
    return {c.name: X[c.name].to_numpy() for c in signature.columns}


def tensor_summaries(X: npt.NDArray[Any], tensor: Tensor) -> dict[str, Floats]:
    """Compute mean, standard deviation and share of zeros of each row.

    Args:
        X: [rows, *shape] or [rows, size].
    """
    flat = np.asarray(X, dtype=np.float64).reshape(len(X), -1)
    return {
        f"{tensor.name}:mean": flat.mean(axis=1),
        f"{tensor.name}:std": flat.std(axis=1),
        f"{tensor.name}:zeros": (flat == 0).mean(axis=1),
    }


def _width(values: npt.NDArray[Any]) -> float:
    """Approximate bytes of one value of the column in the sample."""
    if values.dtype.kind in "fiub":
        return NUMBER_BYTES
    return 4 + float(np.mean([len(str(text)[:TEXT]) for text in values[:SAMPLE_ROWS]] or [0]))


def _chosen(rows: int, width: float) -> npt.NDArray[np.intp]:
    """Which training rows the sample holds, in order.

    Args:
        width: Bytes of one row.
    """
    size = int(np.clip(SAMPLE_BYTES / max(width, 1), LEAST_ROWS, SAMPLE_ROWS))
    if rows <= size:
        return np.arange(rows)
    return np.sort(np.random.default_rng(SEED).choice(rows, size, replace=False))


def _column(
    name: str, values: npt.NDArray[Any], signature: Signature, chosen: npt.NDArray[np.intp]
) -> dict[str, Any]:
    kind = next((c.kind for c in signature.columns if c.name == name), "number")
    numeric = kind in ("number", "integer", "datetime")
    histogram = numeric_histogram(values) if numeric else category_histogram(values, _named(values))
    sample = [_plain(value) for value in values[chosen].tolist()]
    return {"kind": kind, **_built(histogram), "sample": sample}


def _named(values: npt.NDArray[Any]) -> int:
    """How many categories the histogram may name: fewer where their texts are long."""
    counts = pd.Series(values).value_counts().head(CATEGORIES)
    lengths = np.cumsum([len(str(text)) for text in counts.index])
    return int((lengths <= CHARACTERS).sum())


def _plain(value: Any) -> Any:
    if value is None or value is pd.NA or value != value:
        return None
    if isinstance(value, float):
        # A rounded date would be another moment than the same date in live rows.
        return value if value.is_integer() and abs(value) < 2**40 else float(f"{value:.7g}")
    return value[:TEXT] if isinstance(value, str) else value


def _output(answers: ModelPredictions, signature: Signature) -> dict[str, Any]:
    if signature.task == "regression":
        return _built(numeric_histogram(answers.predictions))
    return _built(category_histogram(answers.predictions))


def _confidence(answers: ModelPredictions) -> dict[str, Any] | None:
    if answers.probabilities is None or answers.labels is None:
        return None
    of_answer = answers.probabilities[np.arange(len(answers.labels)), answers.labels]
    return _built(numeric_histogram(of_answer))


def _holdout(
    answers: ModelPredictions, signature: Signature, y_test: npt.NDArray[Any] | None
) -> dict[str, Any] | None:
    if y_test is None or len(y_test) == 0:
        return None
    measured = measure_holdout(
        signature.task,
        np.asarray(y_test),
        answers.predictions,
        answers.probabilities,
        signature.labels,
    )
    return _built(measured)


def _built(struct: msgspec.Struct) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(struct)
    return found
