"""Evaluation of predictions: the metrics of `tidemill.metrics`, reports and confusion matrices.

The definitions are scikit-learn's. Averages over classes weight them equally ("macro"), or by their
number of rows if the metric's name ends in `_weighted`; they include the classes that occur among
the targets or the predictions.
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
    """The evaluation of a model on held-out rows.

    Attributes:
        report, report_text: Metrics by class; empty for regression.
        confusion: Counts [labels, labels] of true classes (rows) by predicted classes (columns).
        labels: In the order of `confusion`; classes that the model was not trained on come last.
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
    """Evaluate predictions.

    Args:
        y: True labels or values [rows].
        predicted: Predicted labels or values [rows].
        probabilities: [rows, labels], in the order of `labels`; None if the model has none.
        labels: The model's classes, in the order of the probabilities; empty for regression.
    """
    if task == "regression":
        return Evaluation(regression_metrics(y, predicted))
    known = [*labels, *sorted(set(y.tolist()) - set(labels), key=str)]
    shared = {"labels": known, "zero_division": 0}
    names = [str(label) for label in known]
    return Evaluation(
        metrics=classification_metrics(y, predicted, probabilities, labels),
        report=metrics.classification_report(
            y, predicted, target_names=names, output_dict=True, **shared
        ),
        report_text=metrics.classification_report(y, predicted, target_names=names, **shared),
        confusion=metrics.confusion_matrix(y, predicted, labels=known),
        labels=tuple(known),
    )


def classification_metrics(
    y: Array,
    predicted: Array,
    probabilities: Array | None = None,
    labels: Sequence[Label] = (),
) -> dict[str, float]:
    """Accuracy, and precision, recall and F1 in both averages; with probabilities, also ROC AUC and
    log loss.

    ROC AUC is omitted if it is not defined because all targets are of one class.
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
    """RMSE, MAE, and R2 if there are at least two rows."""
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
    """Compute a single metric.

    Raises:
        ValueError: It is not defined, such as ROC AUC without probabilities.
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
        raise ValueError(f"{metric} is not defined for these predictions.")
    return value


def roc_auc(y: Array, probabilities: Array, labels: Sequence[Label]) -> float | None:
    """The area under the ROC curve; for several classes, the mean of each against the rest.

    Classes with no rows, or with all rows, have no curve and are skipped; None if all are skipped.
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
    """The mean of -log of the true class's probability, in nats.

    Rows are normalized first, since single-precision probabilities do not add up to exactly one. A
    class that the model was not trained on has probability `numpy.finfo(float).eps`.
    """
    true_class = np.zeros(len(y))
    for k, label in enumerate(labels):
        true_class[y == label] = probabilities[y == label, k]
    least = np.finfo(np.float64).eps
    share = true_class / np.maximum(probabilities.sum(axis=1), least)
    return float(-np.log(np.clip(share, least, 1.0)).mean())
