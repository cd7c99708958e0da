"""Scout a setting before it is fitted: a few cheap passes that say whether it is far behind.

An estimator with `partial_fit` and `max_iter` (SGD, the perceptrons, ...) learns from some of the
training rows, pass by pass, and is scored on others of them after each. It is thrown away then: a
setting that is not given up gets its own `fit` of all training rows, as if nothing had been before.
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

# With fewer rows a fit is no longer than scouting it, which costs some 30 ms whatever is learned.
FEWEST_ROWS, FEWEST_ROWS_OF_A_LINEAR_ONE = 1_000, 10_000
PASSES = 6
SCORED = (3, 6)  # the passes after which it is scored
LEARNED = 0.2  # share of the training rows; all passes together are little more than one epoch
CHECKED, MOST_CHECKED = 0.2, 2000  # share of the training rows that score, and how many at most


def screen(
    estimator: Any, project: Project, data: PreparedData, metric: str, watch: PruningCallback | None
) -> None:
    """Report how good the setting is after each pass; held-out rows take no part.

    Whatever goes wrong here is logged and the setting fitted: its own `fit` has the last word.

    Args:
        estimator: Unfitted, built with the setting, and used up by this.
        watch: None where nothing is pruned.

    Raises:
        Pruned: The setting is behind the others.
    """
    if watch is None or not _can_be_scouted(estimator, data):
        return
    with _generators_kept(), collected_warnings():
        try:
            _scout(estimator, project, data, metric, watch)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            logger.info("%s is not scouted: %s", type(estimator).__name__, why)


def _can_be_scouted(estimator: Any, data: PreparedData) -> bool:
    """Whether passes are what its fit is made of, and enough of them for scouting to be cheap."""
    linear = isinstance(estimator, SGDClassifier | SGDRegressor | Perceptron)
    longest = getattr(estimator, "max_iter", None)
    return (
        len(data.train) >= (FEWEST_ROWS_OF_A_LINEAR_ONE if linear else FEWEST_ROWS)
        and not is_network(estimator)  # is watched through its own epochs
        and hasattr(estimator, "partial_fit")
        and isinstance(longest, int)
        and longest >= PASSES
    )


def _scout(
    estimator: Any, project: Project, data: PreparedData, metric: str, watch: PruningCallback
) -> None:
    learned, checked = _parts(len(data.train), project)
    X, y = _rows(project, data, learned)
    X_checked, y_checked = _rows(project, data, checked)
    pipeline = build_pipeline(estimator, X, project)
    fix_randomness(pipeline, project.seed)
    classes = _classes(project, data)
    _adapt(estimator, classes, y)
    X = pipeline[:-1].fit_transform(X, y)
    X_checked = pipeline[:-1].transform(X_checked)
    first = {} if classes is None else {"classes": classes}
    labels = () if classes is None else tuple(classes.tolist())
    for step in range(1, PASSES + 1):
        estimator.partial_fit(X, y, **(first if step == 1 else {}))
        if step in SCORED:
            answers = predict(estimator, X_checked)
            value = score(metric, y_checked, answers.values, answers.probabilities, labels)
            watch.report(step, metric, value, maximize=METRICS[metric].higher_is_better)


def _parts(count: int, project: Project) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Which rows are learned from, and which score: the same for every setting.

    The last ones score where the project holds out its last rows.
    """
    rng = np.random.default_rng(project.seed)
    order = rng.permutation(count) if project.shuffle else np.arange(count)
    cut = count - min(int(count * CHECKED), MOST_CHECKED)
    return rng.permutation(order[:cut])[: int(count * LEARNED)], order[cut:]


def _rows(project: Project, data: PreparedData, which: npt.NDArray[Any]) -> tuple[Any, Any]:
    rows = data.train.iloc[which]
    return input_matrix(rows, data.inputs, project), target_array(rows, project)


def _classes(project: Project, data: PreparedData) -> npt.NDArray[Any] | None:
    return np.unique(target_array(data.train, project)) if data.task == "classification" else None


def _adapt(estimator: Any, classes: Any, y: npt.NDArray[Any]) -> None:
    """Put what `partial_fit` refuses into words that it takes."""
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
def _generators_kept() -> Iterator[None]:
    """Leave the global generators as they were, so that what follows draws the same without us."""
    plain, of_numpy = random.getstate(), np.random.get_state()
    torch = sys.modules.get("torch")
    of_torch = torch.get_rng_state() if torch is not None else None
    try:
        yield
    finally:
        random.setstate(plain)
        np.random.set_state(of_numpy)
        if torch is not None:
            torch.set_rng_state(of_torch)
