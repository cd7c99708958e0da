"""How good answers are: the metrics of `tidemill.metrics.METRICS`, reports and confusions.

The definitions are scikit-learn's. Averages over classes are plain ("macro") under the bare name
and by the classes' counts under `_weighted`; they run over the classes that occur among the
targets or the answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import metrics

from tidemill.project import Task
from tidemill.signature import Label

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Evaluation:
    """What held-out rows say about a model.

    `report` (by class) and `report_text` are empty for regression; `confusion` [labels, labels]
    counts true class by row and answered class by column, in the order of `labels`, which ends
    with classes that the model never learned.
    """

    metrics: dict[str, float]
    report: dict[str, Any] = field(default_factory=dict)
    report_text: str = ""
    confusion: npt.NDArray[np.int64] | None = None
    labels: tuple[Label, ...] = ()


def evaluate(
    task: Task,
    y: Array,
    predicted: Array,
    probabilities: Array | None = None,
    labels: Sequence[Label] = (),
) -> Evaluation:
    """Compare answers with the truth.

    Args:
        y: What is true [rows].
        predicted: What was answered [rows].
        probabilities: [rows, labels], in the order of `labels`; None where a model gives none.
        labels: Every class, in the order of the probabilities; none for regression.
    """
    if task == "regression":
        return Evaluation(regression_metrics(y, predicted))
    seen = [*labels, *sorted(set(y.tolist()) - set(labels), key=str)]
    shared = {"labels": seen, "zero_division": 0}
    names = [str(label) for label in seen]
    return Evaluation(
        metrics=classification_metrics(y, predicted, probabilities, labels),
        report=metrics.classification_report(
            y, predicted, target_names=names, output_dict=True, **shared
        ),
        report_text=metrics.classification_report(y, predicted, target_names=names, **shared),
        confusion=metrics.confusion_matrix(y, predicted, labels=seen),
        labels=tuple(seen),
    )


def classification_metrics(
    y: Array,
    predicted: Array,
    probabilities: Array | None = None,
    labels: Sequence[Label] = (),
) -> dict[str, float]:
    """Accuracy, precision, recall and f1 in both averages; ROC AUC and log loss by probabilities.

    ROC AUC is left out where it is not defined: when all targets are of one class.
    """
    found = {"accuracy": float(metrics.accuracy_score(y, predicted))}
    for suffix, average in (("", "macro"), ("_weighted", "weighted")):
        precision, recall, f1, _ = metrics.precision_recall_fscore_support(
            y, predicted, average=average, zero_division=0
        )
        found[f"precision{suffix}"] = float(precision)
        found[f"recall{suffix}"] = float(recall)
        found[f"f1{suffix}" if suffix else "f1_score"] = float(f1)
    if probabilities is not None:
        found["log_loss"] = log_loss(y, probabilities, labels)
        area = roc_auc(y, probabilities, labels)
        if area is not None:
            found["roc_auc"] = area
    return found


def regression_metrics(y: Array, predicted: Array) -> dict[str, float]:
    """Root mean squared error, mean absolute error, and R2 where there are two rows or more."""
    found = {
        "rmse": float(metrics.root_mean_squared_error(y, predicted)),
        "mae": float(metrics.mean_absolute_error(y, predicted)),
    }
    if len(y) > 1:
        found["r2"] = float(metrics.r2_score(y, predicted))
    return found


def score(
    metric: str,
    y: Array,
    predicted: Array,
    probabilities: Array | None = None,
    labels: Sequence[Label] = (),
) -> float:
    """One metric alone, for what is scored often.

    Raises:
        ValueError: It is not defined here, as ROC AUC without probabilities.
    """
    plain = {
        "accuracy": metrics.accuracy_score,
        "rmse": metrics.root_mean_squared_error,
        "mae": metrics.mean_absolute_error,
        "r2": metrics.r2_score,
    }
    if metric in plain:
        return float(plain[metric](y, predicted))
    if metric not in ("log_loss", "roc_auc"):
        average = "weighted" if metric.endswith("_weighted") else "macro"
        found = metrics.precision_recall_fscore_support(
            y, predicted, average=average, zero_division=0
        )
        return float(found[("precision", "recall", "f1").index(metric.split("_")[0])])
    value = None
    if probabilities is not None:
        value = (log_loss if metric == "log_loss" else roc_auc)(y, probabilities, labels)
    if value is None:
        raise ValueError(f"{metric} is not defined here.")
    return value


def roc_auc(y: Array, probabilities: Array, labels: Sequence[Label]) -> float | None:
    """The area under the ROC curve; of several classes, the plain mean of each against the rest.

    Classes that no row, or every row, belongs to have no curve and do not count; None when none
    has one.
    """
    if len(labels) == 2:
        positive = y == labels[1]
        return _area(positive, probabilities[:, 1])
    areas = [_area(y == label, probabilities[:, k]) for k, label in enumerate(labels)]
    known = [area for area in areas if area is not None]
    return float(np.mean(known)) if known else None


def _area(positive: Array, scores: Array) -> float | None:
    if not 0 < int(positive.sum()) < len(positive):
        return None
    return float(metrics.roc_auc_score(positive, scores))


def log_loss(y: Array, probabilities: Array, labels: Sequence[Label]) -> float:
    """The mean of -log of the probability given to the true class, in nats.

    Each row is made to add up to one first: single-precision probabilities do so only roughly. A
    class the model never learned counts as given the smallest probability there is.
    """
    given = np.zeros(len(y))
    for k, label in enumerate(labels):
        given[y == label] = probabilities[y == label, k]
    least = np.finfo(np.float64).eps
    share = given / np.maximum(probabilities.sum(axis=1), least)
    return float(-np.log(np.clip(share, least, 1.0)).mean())
