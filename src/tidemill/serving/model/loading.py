"""Loads a predictor from the shelf: verify the bundle, load it, test it on its example, time it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from tidemill.bundle import Bundle, RowPrediction
from tidemill.errors import BundleError, TidemillError
from tidemill.serving.codec.outputs import Array, Outputs
from tidemill.serving.codec.request_parsing import Row
from tidemill.serving.codec.tensor_encoder import TensorEncoder
from tidemill.serving.model.batching import LatencyEstimate, pad_single_row
from tidemill.serving.model.context import PredictorContext
from tidemill.serving.model.predictor import Predictor
from tidemill.serving.model.runtime import Runtime
from tidemill.serving.shelf.shelf import ShelfEntry, open_bundle
from tidemill.signature import Signature

TOLERANCE = 1e-4  # relative; the last digits may differ between processors
FEW, MANY = 1, 16  # rows in the timed runs
ROUNDS = 7
MAX_SECONDS = 0.5  # of timed runs
P = TypeVar("P", bound=Predictor)
LoadRuntime = Callable[[Bundle], Runtime]


def load_predictor(
    shelf: Path, name: str, entry: ShelfEntry, context: PredictorContext,
    load_runtime: LoadRuntime,
    kind: type[P] = Predictor,  # type: ignore[assignment]
) -> P:  # fmt: skip
    """Load a version as a predictor that is ready for traffic.

    Args:
        kind: The class of the predictor.

    Raises:
        BundleError: The bundle is corrupt, cannot be loaded, or answers its example differently
            than in training.
    """
    bundle = open_bundle(shelf, entry)
    try:
        runtime = load_runtime(bundle)
        latency = smoke_test(bundle, runtime)
        return kind(name, entry.version, bundle, runtime, latency, context)
    except BundleError:
        raise
    except Exception as error:  # a model library may fail in any way; the old version stays
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, TidemillError):
            reason = error.detail
        raise BundleError(f"{bundle.path} cannot be loaded: {reason}") from error


def smoke_test(bundle: Bundle, runtime: Runtime) -> LatencyEstimate:
    """Run the model on the bundle's example, compare the answers, and measure the latency.

    Raises:
        BundleError: An answer differs from the one recorded in training.
    """
    example = bundle.example()
    if not example.rows:
        raise BundleError(
            f"{bundle.path} contains no example rows, so it cannot be tested before it is served."
        )
    encoder = TensorEncoder(bundle.signature, bundle.manifest.inputs)
    rows = [list(row) for row in example.rows]
    outputs = Outputs(*runtime.run(encoder.encode(rows).arrays))
    for row, answer in enumerate(example.answers):
        if not _matches(bundle.signature, outputs, row, answer):
            raise BundleError(
                f"{bundle.path} answers row {row} of its own example differently than in training;"
                f" expected {answer.prediction!r}."
            )
    return measure_latency(encoder, runtime, rows)


def measure_latency(
    encoder: TensorEncoder, runtime: Runtime, rows: Sequence[Row]
) -> LatencyEstimate:
    """Measure how long a run takes per row, and whether a single row needs padding."""
    cycle = [rows[i % len(rows)] for i in range(MANY)]
    one, many = encoder.encode(cycle[:FEW]).arrays, encoder.encode(cycle).arrays
    pad = not _same_digits(runtime, one, many, pad=False) and _same_digits(
        runtime, one, many, pad=True
    )
    few_seconds = _shortest_seconds(runtime, pad_single_row(one, FEW, pad))
    many_seconds = _shortest_seconds(runtime, many)
    per_row = max(0.0, (many_seconds - few_seconds) / (MANY - FEW))
    return LatencyEstimate(max(0.0, few_seconds - per_row), per_row, pad)


def _same_digits(runtime: Runtime, one: list[Array], many: list[Array], *, pad: bool) -> bool:
    alone = Outputs(*runtime.run(pad_single_row(one, 1, pad))).part(0, 1)
    among = Outputs(*runtime.run(many)).part(0, 1)
    pairs = ((alone.probabilities, among.probabilities), (alone.values, among.values))
    return all(a is None or b is None or np.array_equal(a, b) for a, b in pairs)


def _shortest_seconds(runtime: Runtime, arrays: list[Array]) -> float:
    """The shortest of `ROUNDS` runs, or of fewer if they take longer than `MAX_SECONDS`.

    Others may be loaded at the same time, which lengthens some of the runs.
    """
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        runtime.run(arrays)
        times.append(time.perf_counter() - started)
        if sum(times) > MAX_SECONDS:
            break
    return min(times)


def _matches(signature: Signature, outputs: Outputs, row: int, answer: RowPrediction) -> bool:
    if outputs.labels is None:
        return _close(outputs.value_list[row], answer.prediction)
    if signature.labels[outputs.label_list[row]] != answer.prediction:
        return False
    if answer.probabilities is None or outputs.probabilities is None:
        return True
    found = outputs.probability_rows[row]
    return len(found) == len(answer.probabilities) and all(map(_close, found, answer.probabilities))


def _close(found: float, expected: object) -> bool:
    if not isinstance(expected, int | float):
        return False
    return math.isclose(found, expected, rel_tol=TOLERANCE, abs_tol=1e-6)
