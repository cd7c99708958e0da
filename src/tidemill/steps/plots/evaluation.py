"""Plots of a model's predictions for held-out rows.

Every function returns a new matplotlib Figure. None uses pyplot, whose state all threads share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from sklearn import metrics

from tidemill.signature import Label
from tidemill.steps.plots import style
from tidemill.steps.plots.style import BLUE, COLOURS, FAINT, INK, RED, set_heading, shorten_names

Array = npt.NDArray[Any]

SHADES = LinearSegmentedColormap.from_list("shades", ["#FFFFFF", "#9CCAE6", BLUE, "#00344F"])
MAX_CURVES = len(COLOURS)
MAX_NUMBERED_CLASSES = 20  # with more classes, counts do not fit into the cells
CALIBRATION_BINS = 10
MAX_POINTS = 5000


def plot_confusion_matrix(matrix: Array, labels: Sequence[Label], title: str) -> Figure:
    """Draw counts of the true class (row) by the predicted class (column), shaded by row share.

    Args:
        matrix: Counts [labels, labels], true classes by row.
    """
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(2.6 + 0.62 * len(labels), 4.6, 13.0))
    figure, (axes,) = style.new_figure(title, side + 1.3, side)
    image = axes.imshow(shares, cmap=SHADES, vmin=0, vmax=1)
    _name_cells(axes, labels)
    if len(labels) <= MAX_NUMBERED_CLASSES:
        _number_cells(axes, matrix, shares)
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, ticks=[0, 0.5, 1])
    bar.set_label("share of the true class", color=INK, fontsize=9)
    bar.ax.set_yticklabels(["0", "50%", "100%"], fontsize=9)
    bar.outline.set_visible(False)
    right = int(np.trace(matrix))
    set_heading(axes, f"{right} of {int(matrix.sum())} held-out rows predicted correctly")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return figure


def _name_cells(axes: Axes, labels: Sequence[Label]) -> None:
    names = shorten_names(labels)
    long = max(map(len, names)) * len(names) > 40
    positions = range(len(names))
    axes.set_xticks(
        positions,
        names,
        rotation=40 if long else 0,
        ha="right" if long else "center",
        rotation_mode="anchor" if long else None,
    )
    axes.set_yticks(positions, names)
    axes.grid(False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _number_cells(axes: Axes, matrix: Array, shares: Array) -> None:
    size = float(np.clip(15 - 0.5 * len(matrix), 6.5, 13))
    for row, column in np.ndindex(*matrix.shape):
        count = int(matrix[row, column])
        colour = "white" if shares[row, column] > 0.55 else INK if count else FAINT
        axes.text(column, row, f"{count}", ha="center", va="center", color=colour, fontsize=size)


def plot_roc_pr_curves(
    y: Array, probabilities: Array, labels: Sequence[Label], title: str
) -> Figure:
    """Draw ROC and precision-recall curves; for several classes, each against the rest.

    With more than seven classes, those with the smallest area under the ROC curve are drawn.

    Args:
        y: True labels [rows].
        probabilities: [rows, labels].
    """
    figure, (left, right) = style.new_figure(title, 10.4, 5.0, columns=2)
    shown = _drawn_classes(y, probabilities, labels)
    for colour, line, k in zip(COLOURS, style.LINES, shown, strict=False):
        positive, scores = y == labels[k], probabilities[:, k]
        false, true, _ = metrics.roc_curve(positive, scores)
        area = metrics.auc(false, true)
        precision, recall, _ = metrics.precision_recall_curve(positive, scores)
        mean = metrics.average_precision_score(positive, scores)
        name = shorten_names([labels[k]])[0]
        left.plot(
            false, true, color=colour, linestyle=line, linewidth=2, label=f"{name}  {area:.3f}",
        )  # fmt: skip
        right.step(
            recall, precision, where="post", color=colour, linestyle=line, linewidth=2,
            label=f"{name}  {mean:.3f}",
        )  # fmt: skip
    left.plot(
        [0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (1, 3)), label="chance", zorder=0
    )
    left.set(xlabel="false positive rate", ylabel="true positive rate")
    right.set(xlabel="recall", ylabel="precision")
    for axes, what in ((left, "area under ROC"), (right, "average precision")):
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.04))
        if shown:
            style.legend(axes, title=what, loc="lower right" if axes is left else "lower left")
    set_heading(left, "ROC: rows found against false alarms")
    set_heading(right, "Precision and recall: correct alarms against rows found")
    return figure


def _drawn_classes(y: Array, probabilities: Array, labels: Sequence[Label]) -> list[int]:
    """Indices of the classes to draw: of two the second, of many those with the smallest area."""
    if len(labels) == 2:
        candidates = [1]
    else:
        candidates = list(range(len(labels)))
    some = [k for k in candidates if 0 < int((y == labels[k]).sum()) < len(y)]
    some.sort(key=lambda k: metrics.roc_auc_score(y == labels[k], probabilities[:, k]))
    return sorted(some[:MAX_CURVES])


def plot_calibration(
    y: Array, probabilities: Array, predicted: Array, labels: Sequence[Label], title: str
) -> Figure:
    """Draw a calibration curve and a histogram of the predicted probabilities.

    For two classes, of the second one's probability; for more, of the predicted class's.

    Args:
        y: True labels [rows].
        probabilities: [rows, labels].
        predicted: Predicted labels [rows].
    """
    if len(labels) == 2:
        occurred, claimed = y == labels[1], probabilities[:, 1]
        what = f"probability of {shorten_names([labels[1]])[0]}"
    else:
        occurred, claimed = y == predicted, probabilities.max(axis=1)
        what = "probability of the predicted class"
    figure, (left, right) = style.new_figure(title, 10.4, 4.8, columns=2)
    left.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle="--", label="perfect")
    mean, share, spread = calibration_points(occurred, claimed)
    left.errorbar(
        mean, share, spread, color=BLUE, marker="o", markersize=6, linewidth=1.5, elinewidth=1,
        capsize=3, ecolor="#7FB8D8", label="observed, with 95% interval",
    )  # fmt: skip
    left.set(xlabel=what, ylabel="observed frequency", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    style.legend(left, loc="upper left")
    right.hist(claimed, bins=np.linspace(0, 1, 21).tolist(), color=BLUE, edgecolor="white")
    right.set(xlabel=what, ylabel="held-out rows", xlim=(-0.03, 1.03))
    set_heading(left, "Calibration: on the dashed line, probabilities are right")
    set_heading(right, "Predicted probabilities")
    return figure


def calibration_points(occurred: Array, claimed: Array) -> tuple[Array, Array, Array]:
    """The points of a calibration curve: one for each tenth of probability that has rows.

    Returns the mean predicted probability [bins], the observed frequency [bins], and the distance
    to the lower and the upper end of its 95% interval [2, bins]: Wilson's score interval, which
    stays within 0 and 1 and is valid for few rows.

    Args:
        occurred: Whether the event occurred [rows].
        claimed: Its predicted probability [rows].
    """
    bin_of_row = np.minimum((claimed * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    bins = np.unique(bin_of_row)
    n = np.array([(bin_of_row == b).sum() for b in bins])
    mean = np.array([claimed[bin_of_row == b].mean() for b in bins])
    share = np.array([occurred[bin_of_row == b].mean() for b in bins])
    z = 1.96
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    spread = np.array([share - (middle - reach), middle + reach - share])
    return mean, share, np.maximum(spread, 0)


def plot_residuals(y: Array, predicted: Array, title: str, target: str) -> Figure:
    """Draw predicted against true values, and a histogram of the errors.

    Args:
        y: True values [rows].
        predicted: Predicted values [rows].
        target: The target's name, for the axes.
    """
    figure, (left, right) = style.new_figure(title, 10.4, 4.8, columns=2)
    errors = predicted - y
    shown = np.linspace(0, len(y) - 1, min(len(y), MAX_POINTS)).astype(int)
    alpha = float(np.clip(300 / max(len(shown), 1), 0.12, 0.8))
    left.scatter(y[shown], predicted[shown], s=14, color=BLUE, alpha=alpha, linewidths=0)
    low, high = float(y.min()), float(y.max())
    left.plot([low, high], [low, high], color=RED, linestyle="--", linewidth=1.8, label="perfect")
    left.set(xlabel=f"true {target}", ylabel=f"predicted {target}")
    style.legend(left, loc="upper left")
    right.hist(errors, bins=_error_bins(errors), color=BLUE, edgecolor="white", linewidth=0.4)
    right.axvline(0, color=RED, linewidth=1.5)
    right.set(xlabel="predicted - true", ylabel="held-out rows")
    set_heading(left, f"{len(y)} held-out rows")
    off = f"mean {errors.mean():+.3g}, 90% within ±{np.quantile(abs(errors), 0.9):.3g}"
    set_heading(right, f"Errors: {off}")
    return figure


def _error_bins(errors: Array) -> list[float]:
    """Edges over the middle 99% and slightly beyond, so that an outlier does not hide the rest."""
    reach = float(np.quantile(np.abs(errors), 0.995)) * 1.1 or 1.0
    return list(np.linspace(-reach, reach, 41))
