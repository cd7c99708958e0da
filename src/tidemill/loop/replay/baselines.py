"""What a replay is compared with: the first champion left alone, and a fixed schedule.

Both use the code that the loop uses: the same candidates, fitted and asked in the same way.
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

#: From no more rows than this candidates learn to be chosen from: a choice costs less than a fit.
CHOOSING_ROWS = 5_000


@dataclass
class Baseline:
    """What another way would have answered [rows], and what it would have cost."""

    name: str
    outputs: npt.NDArray[Any]
    retrainings: list[int] = field(default_factory=list)
    seconds: float = 0.0


def without_retraining(
    staged: ReplaySetup, first: Bundle, answered: npt.NDArray[np.bool_]
) -> Baseline:
    """The first champion's answers to the rows that were answered; None or NaN elsewhere."""
    frame = staged.frame.iloc[staged.warmup : staged.warmup + len(answered)]
    outcome = evaluate_bundle(first, frame[answered])
    return Baseline("left alone", _spread(outcome.predicted, answered, staged))


def on_schedule(
    staged: ReplaySetup,
    answered: npt.NDArray[np.bool_],
    settings: Mapping[str, Mapping[str, Any]],
    *,
    every: int,
    delay: int,
    batch: int,
    last: int | None = None,
    tell: Callable[[int], None] = lambda rows: None,
) -> Baseline:
    """Trains again after every so many rows, on all labelled rows or the `last` so many, and serves
    what comes of it at once.

    Args:
        settings: By candidate, the best parameters of the first training. Each candidate learns
            from all but the newest of at most `CHOOSING_ROWS` rows, the best on those from all.
        every, delay, batch: In rows; labels come as in the replay.
    """
    name = f"every {every:,} rows" + (f", the last {last:,}" if last is not None else "")
    done = Baseline(name, _spread(np.zeros(0), np.zeros(len(answered), dtype=bool), staged))
    inputs = _inputs(staged)
    model: Any = None
    for start, stop in _reigns(len(answered), every, batch):
        known = staged.warmup + max(start - delay, 0)
        began = time.monotonic()
        model = _fitted(staged, known, last if start else None, settings) or model
        if start:
            done.seconds += time.monotonic() - began
            done.retrainings.append(start)
        if model is not None:
            rows = staged.frame.iloc[staged.warmup + start : staged.warmup + stop]
            done.outputs[start:stop] = predict(
                model, input_matrix(rows, inputs, staged.project)
            ).values
        tell(stop)
    return done


def _reigns(rows: int, every: int, batch: int) -> list[tuple[int, int]]:
    """From which row to which each model answers: it changes between two batches."""
    starts, due = [0], every
    for start in range(batch, rows, batch):
        if start >= due:
            starts.append(start)
            due = start + every
    return list(zip(starts, [*starts[1:], rows], strict=True))


def _fitted(
    staged: ReplaySetup, known: int, last: int | None, settings: Mapping[str, Mapping[str, Any]]
) -> Any:
    """The candidate that is best on the newest rows, fitted on all; None if none can be."""
    first = 0 if last is None else max(known - last, 0)
    data = _prepared(staged, max(first, known - CHOOSING_ROWS), known)
    metric = staged.project.gate.deciding_metric(data.task)
    sign = METRICS[metric].sign
    found: list[tuple[float, Trial]] = []
    for name, params in settings.items():
        trial = Trial(name, 1, 1, dict(params))
        try:
            value = fit_and_evaluate(trial, staged.project, data).evaluation.metrics.get(metric)
        except Exception:  # a candidate that fails here fails in any training: it is left out
            continue
        found.append((sign * value if value is not None else -np.inf, trial))
    if not found:
        return None
    whole = replace(data, train=data.frame.iloc[first:known])
    best = max(found, key=lambda pair: pair[0])[1]
    return fit_and_evaluate(best, staged.project, whole).model


def _prepared(staged: ReplaySetup, first: int, known: int) -> PreparedData:
    project, held = staged.project, held_out_rows(known - first)
    cleaned = clean(load_frame(project), project)
    frame = staged.frame.iloc[:known]
    return PreparedData(
        source="replay",
        task=cleaned.task,
        inputs=_inputs(staged),
        kinds=cleaned.kinds,
        frame=frame,
        train=frame.iloc[first : known - held],
        test=frame.iloc[known - held :],
        warnings=(),
        fingerprint="",
        test_fingerprint="",
    )


def _inputs(staged: ReplaySetup) -> tuple[str, ...]:
    """The columns that the warm-up gives a model."""
    target = staged.project.target
    names = [str(name) for name in staged.frame.columns if name != target]
    if staged.project.tensor is not None:
        return tuple(names)
    warmup = staged.frame.iloc[: staged.warmup]
    return tuple(name for name in names if warmup[name].nunique(dropna=False) > 1)


def _spread(
    values: npt.NDArray[Any], answered: npt.NDArray[np.bool_], staged: ReplaySetup
) -> npt.NDArray[Any]:
    """The values at the rows that were answered."""
    if staged.truth.dtype.kind == "f":
        found = np.full(len(answered), np.nan)
        found[answered] = values.astype(np.float64)
        return found
    texts: npt.NDArray[Any] = np.full(len(answered), None, dtype=object)
    texts[answered] = values
    return texts
