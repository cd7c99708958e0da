"""Early screening: a few cheap passes over part of the training rows, before a setting is fitted.

An estimator with `partial_fit` and `max_iter` (SGD, the perceptrons, ...) is trained pass by pass
on some of the training rows and scored on others; a setting that is clearly behind is pruned. The
screened estimator is discarded: a setting that is not pruned is fitted from scratch on all rows.

See decision 190.
"""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import Perceptron, SGDClassifier, SGDRegressor

from tidemill.metrics import METRICS
from tidemill.project import Project
from tidemill.steps.data.prepare import PreparedData, input_matrix, target_array
from tidemill.steps.data.preprocessing import build_pipeline
from tidemill.steps.evaluation.evaluate import score
from tidemill.steps.search.epochs import is_network
from tidemill.steps.search.fit import collected_warnings, fix_randomness, predict
from tidemill.steps.search.pruning import PruningCallback

logger = logging.getLogger(__name__)

# Screening costs about 30 ms whatever the rows; below these sizes a fit takes no longer.
MIN_ROWS, MIN_ROWS_LINEAR = 1_000, 10_000
PASSES = 6
SCORED_PASSES = (3, 6)
TRAINED_SHARE = 0.2  # of the training rows, so that all passes together are about one epoch
SCORED_SHARE, MAX_SCORED_ROWS = 0.2, 2000


def screen(
    estimator: Any,
    project: Project,
    data: PreparedData,
    metric: str,
    callback: PruningCallback | None,
) -> None:
    """Report the score of a setting after some passes; held-out rows are not used.

    An error in screening is logged and the setting is fitted: only its own `fit` decides whether
    the trial fails.

    Args:
        estimator: Unfitted, built with the setting; it cannot be used afterwards.
        callback: None if the search does not prune.

    Raises:
        TrialPruned: The setting is clearly behind the others.
    """
    if callback is None or not _can_be_screened(estimator, data):
        return
    with _restore_random_state(), collected_warnings():
        try:
            _screen(estimator, project, data, metric, callback)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            logger.info("%s could not be screened: %s", type(estimator).__name__, reason)


def _can_be_screened(estimator: Any, data: PreparedData) -> bool:
    """Whether its fit consists of passes, and is long enough for screening to pay off."""
    linear = isinstance(estimator, SGDClassifier | SGDRegressor | Perceptron)
    max_iter = getattr(estimator, "max_iter", None)
    return (
        len(data.train) >= (MIN_ROWS_LINEAR if linear else MIN_ROWS)
        and not is_network(estimator)  # networks report their own epochs
        and hasattr(estimator, "partial_fit")
        and isinstance(max_iter, int)
        and max_iter >= PASSES
    )


def _screen(
    estimator: Any, project: Project, data: PreparedData, metric: str, callback: PruningCallback
) -> None:
    trained, scored = _split_rows(len(data.train), project)
    X, y = _rows(project, data, trained)
    X_scored, y_scored = _rows(project, data, scored)
    pipeline = build_pipeline(estimator, X, project, dates=data.dates)
    fix_randomness(pipeline, project.seed)
    classes = _classes(project, data)
    _adapt_to_partial_fit(estimator, classes, y)
    X = pipeline[:-1].fit_transform(X, y)
    X_scored = pipeline[:-1].transform(X_scored)
    first = {} if classes is None else {"classes": classes}
    labels = () if classes is None else tuple(classes.tolist())
    for step in range(1, PASSES + 1):
        estimator.partial_fit(X, y, **(first if step == 1 else {}))
        if step in SCORED_PASSES:
            found = predict(estimator, X_scored)
            value = score(metric, y_scored, found.values, found.probabilities, labels)
            callback.report(step, metric, value, maximize=METRICS[metric].higher_is_better)


def _split_rows(count: int, project: Project) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Indices of the rows to train on and to score on; the same for every setting.

    If the project holds out its last rows, the last training rows are the ones scored.
    """
    rng = np.random.default_rng(project.seed)
    order = rng.permutation(count) if project.shuffle else np.arange(count)
    cut = count - min(int(count * SCORED_SHARE), MAX_SCORED_ROWS)
    return rng.permutation(order[:cut])[: int(count * TRAINED_SHARE)], order[cut:]


def _rows(project: Project, data: PreparedData, indices: npt.NDArray[Any]) -> tuple[Any, Any]:
    rows = data.train.iloc[indices]
    return input_matrix(rows, data.inputs, project), target_array(rows, project)


def _classes(project: Project, data: PreparedData) -> npt.NDArray[Any] | None:
    if data.task != "classification":
        return None
    return np.unique(target_array(data.train, project))


def _adapt_to_partial_fit(estimator: Any, classes: Any, y: npt.NDArray[Any]) -> None:
    """Replace the parameters that `partial_fit` does not accept by equivalent ones."""
    if getattr(estimator, "early_stopping", False):
        estimator.set_params(early_stopping=False)
    if getattr(estimator, "class_weight", None) == "balanced":
        from sklearn.utils.class_weight import compute_class_weight

        known = np.unique(y)
        weights = compute_class_weight("balanced", classes=known, y=y)
        others = dict.fromkeys(classes.tolist(), 1.0)
        estimator.set_params(
            class_weight={**others, **dict(zip(known.tolist(), weights, strict=True))}
        )


@contextmanager
def _restore_random_state() -> Iterator[None]:
    """Restore the global random generators, so that screening does not change the fit after it."""
    python, numpy = random.getstate(), np.random.get_state()
    torch = sys.modules.get("torch")
    torch_state = torch.get_rng_state() if torch is not None else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        if torch is not None:
            torch.set_rng_state(torch_state)
