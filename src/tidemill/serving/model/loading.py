"""From a placed bundle to a predictor: verify, load, check against its own example, measure."""

from __future__ import annotations

import math
import statistics
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
from tidemill.serving.model.predictor import Predictor, PredictorContext, Runtime
from tidemill.serving.shelf.shelf import ShelfEntry, open_bundle
from tidemill.signature import Signature

TOLERANCE = 1e-4  # relative; another processor's arithmetic may differ in the last digits
FEW, MANY = 1, 16  # rows in the runs that are timed
ROUNDS = 7
P = TypeVar("P", bound=Predictor)
LoadRuntime = Callable[[Bundle], Runtime]


def load_predictor(
    shelf: Path, name: str, placed: ShelfEntry, context: PredictorContext,
    load_runtime: LoadRuntime,
    kind: type[P] = Predictor,  # type: ignore[assignment]
) -> P:  # fmt: skip
    """The version as a predictor of some kind that is ready for traffic.

    Raises:
        BundleError: The bundle is not whole, cannot be loaded, or does not answer its own example
            as it did in training.
    """
    bundle = open_bundle(shelf, placed)
    try:
        runtime = load_runtime(bundle)
        latency = smoke_test(bundle, runtime)
        return kind(name, placed.version, bundle, runtime, latency, context)
    except BundleError:
        raise
    except Exception as error:  # a model library may fail in any way; the old version goes on
        what = error.detail if isinstance(error, TidemillError) else f"{type(error).__name__}: "
        what += "" if isinstance(error, TidemillError) else str(error)
        raise BundleError(f"{bundle.path} cannot be loaded: {what}") from error


def smoke_test(bundle: Bundle, runtime: Runtime) -> LatencyEstimate:
    """Answer the bundle's example, compare, and measure.

    Raises:
        BundleError: An answer differs from the one that was given in training.
    """
    example = bundle.example()
    if not example.rows:
        raise BundleError(f"{bundle.path} holds no example to check against.")
    encoder = TensorEncoder(bundle.signature, bundle.manifest.inputs)
    rows = [list(row) for row in example.rows]
    outputs = Outputs(*runtime.run(encoder.encode(rows).arrays))
    for place, answer in enumerate(example.answers):
        if not _agrees(bundle.signature, outputs, place, answer):
            raise BundleError(
                f"{bundle.path} does not answer its own example: row {place} should give"
                f" {answer.prediction!r}."
            )
    return measure_latency(encoder, runtime, rows)


def measure_latency(
    encoder: TensorEncoder, runtime: Runtime, rows: Sequence[Row]
) -> LatencyEstimate:
    """How long a run takes by its rows, and whether one row alone needs padding."""
    cycle = [rows[i % len(rows)] for i in range(MANY)]
    one, many = encoder.encode(cycle[:FEW]).arrays, encoder.encode(cycle).arrays
    pad = not _same_digits(runtime, one, many, pad=False) and _same_digits(
        runtime, one, many, pad=True
    )
    few_seconds = _median_seconds(runtime, pad_single_row(one, FEW, pad))
    many_seconds = _median_seconds(runtime, many)
    per_row = max(0.0, (many_seconds - few_seconds) / (MANY - FEW))
    return LatencyEstimate(max(0.0, few_seconds - per_row), per_row, pad)


def _same_digits(runtime: Runtime, one: list[Array], many: list[Array], *, pad: bool) -> bool:
    alone = Outputs(*runtime.run(pad_single_row(one, 1, pad))).part(0, 1)
    among = Outputs(*runtime.run(many)).part(0, 1)
    pairs = ((alone.probabilities, among.probabilities), (alone.values, among.values))
    return all(a is None or b is None or np.array_equal(a, b) for a, b in pairs)


def _median_seconds(runtime: Runtime, arrays: list[Array]) -> float:
    """The median of a few runs; of fewer when one takes long."""
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        runtime.run(arrays)
        times.append(time.perf_counter() - started)
        if sum(times) > 0.5:
            break
    return statistics.median(times)


def _agrees(signature: Signature, outputs: Outputs, place: int, answer: RowPrediction) -> bool:
    if outputs.labels is None:
        return _close(outputs.value_list[place], answer.prediction)
    if signature.labels[outputs.label_list[place]] != answer.prediction:
        return False
    if answer.probabilities is None or outputs.probabilities is None:
        return True
    found = outputs.probability_rows[place]
    return len(found) == len(answer.probabilities) and all(map(_close, found, answer.probabilities))


def _close(found: float, wanted: object) -> bool:
    if not isinstance(wanted, int | float):
        return False
    return math.isclose(found, wanted, rel_tol=TOLERANCE, abs_tol=1e-6)
