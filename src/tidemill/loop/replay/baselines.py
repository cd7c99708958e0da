"""Baselines of a replay: the first champion without retraining, and retraining on a schedule.

They use the loop's code: the same candidates, fitted and applied in the same way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tidemill.bundle import Bundle
from tidemill.loop.promotion.bundle_evaluation import evaluate_bundle
from tidemill.loop.replay.setup import ReplaySetup
from tidemill.loop.training.trial import fit_and_evaluate
from tidemill.metrics import METRICS
from tidemill.steps.data.clean import clean
from tidemill.steps.data.prepare import PreparedData, input_matrix, load_frame
from tidemill.steps.retraining.training_windows import held_out_rows
from tidemill.steps.search.fit import predict
from tidemill.steps.search.search import Trial

#: Rows on which candidates are fitted to choose one, so that the choice costs less than the fit.
SELECTION_ROWS = 5_000


@dataclass
class Baseline:
    """What another strategy predicts [rows], and the retrainings it needs."""

    name: str
    outputs: npt.NDArray[Any]
    retrainings: list[int] = field(default_factory=list)
    seconds: float = 0.0


def without_retraining(
    setup: ReplaySetup, first: Bundle, answered: npt.NDArray[np.bool_]
) -> Baseline:
    """Predict with the first champion the rows that have predictions; None or NaN elsewhere."""
    frame = setup.frame.iloc[setup.warmup : setup.warmup + len(answered)]
    outcome = evaluate_bundle(first, frame[answered])
    return Baseline("left alone", _spread(outcome.predicted, answered, setup))


def on_schedule(
    setup: ReplaySetup,
    answered: npt.NDArray[np.bool_],
    settings: Mapping[str, Mapping[str, Any]],
    *,
    every: int,
    delay: int,
    batch: int,
    last: int | None = None,
    on_progress: Callable[[int], None] = lambda rows: None,
) -> Baseline:
    """Retrain after every `every` rows, on all labelled rows or the last ones, and serve at once.

    Args:
        settings: By candidate, the best parameters of the first training. Candidates are fitted on
            at most `SELECTION_ROWS` rows and compared on the newest of them; the best is then
            fitted on all.
        every, delay, batch: In rows; labels arrive as in the replay.
        last: Rows to train on; None means all labelled rows.
        on_progress: Called with the number of rows done.
    """
    name = f"every {every:,} rows" + (f", the last {last:,}" if last is not None else "")
    done = Baseline(name, _spread(np.zeros(0), np.zeros(len(answered), dtype=bool), setup))
    inputs = _inputs(setup)
    model: Any = None
    for start, stop in _periods(len(answered), every, batch):
        known = setup.warmup + max(start - delay, 0)
        began = time.monotonic()
        model = _fitted(setup, known, last if start else None, settings) or model
        if start:
            done.seconds += time.monotonic() - began
            done.retrainings.append(start)
        if model is not None:
            rows = setup.frame.iloc[setup.warmup + start : setup.warmup + stop]
            done.outputs[start:stop] = predict(
                model, input_matrix(rows, inputs, setup.project)
            ).values
        on_progress(stop)
    return done


def _periods(rows: int, every: int, batch: int) -> list[tuple[int, int]]:
    """The first and last row of each model; models change between batches."""
    starts, due = [0], every
    for start in range(batch, rows, batch):
        if start >= due:
            starts.append(start)
            due = start + every
    return list(zip(starts, [*starts[1:], rows], strict=True))


def _fitted(
    setup: ReplaySetup, known: int, last: int | None, settings: Mapping[str, Mapping[str, Any]]
) -> Any:
    """The candidate that is best on the newest rows, fitted on all; None if all fail."""
    first = 0 if last is None else max(known - last, 0)
    data = _prepared(setup, max(first, known - SELECTION_ROWS), known)
    metric = setup.project.gate.deciding_metric(data.task)
    sign = METRICS[metric].sign
    found: list[tuple[float, Trial]] = []
    for name, params in settings.items():
        trial = Trial(name, 1, 1, dict(params))
        try:
            value = fit_and_evaluate(trial, setup.project, data).evaluation.metrics.get(metric)
        except Exception:  # left out, as a training would mark it failed
            continue
        found.append((sign * value if value is not None else -np.inf, trial))
    if not found:
        return None
    whole = replace(data, train=data.frame.iloc[first:known])
    best = max(found, key=lambda pair: pair[0])[1]
    return fit_and_evaluate(best, setup.project, whole).model


def _prepared(setup: ReplaySetup, first: int, known: int) -> PreparedData:
    project, held = setup.project, held_out_rows(known - first)
    cleaned = clean(load_frame(project), project)
    frame = setup.frame.iloc[:known]
    return PreparedData(
        source="replay",
        task=cleaned.task,
        inputs=_inputs(setup),
        kinds=cleaned.kinds,
        frame=frame,
        train=frame.iloc[first : known - held],
        test=frame.iloc[known - held :],
        warnings=(),
        fingerprint="",
        test_fingerprint="",
    )


def _inputs(setup: ReplaySetup) -> tuple[str, ...]:
    """The columns that vary in the warm-up."""
    target = setup.project.target
    names = [str(name) for name in setup.frame.columns if name != target]
    if setup.project.tensor is not None:
        return tuple(names)
    warmup = setup.frame.iloc[: setup.warmup]
    return tuple(name for name in names if warmup[name].nunique(dropna=False) > 1)


def _spread(
    values: npt.NDArray[Any], answered: npt.NDArray[np.bool_], setup: ReplaySetup
) -> npt.NDArray[Any]:
    """The values at the rows that have predictions."""
    if setup.truth.dtype.kind == "f":
        found = np.full(len(answered), np.nan)
        found[answered] = values.astype(np.float64)
        return found
    texts: npt.NDArray[Any] = np.full(len(answered), None, dtype=object)
    texts[answered] = values
    return texts
