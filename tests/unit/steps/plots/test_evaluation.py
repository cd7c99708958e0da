"""Plots are drawn for every kind of prediction, without pyplot."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from tidemill.steps.plots import evaluation as pictures
from tidemill.steps.plots import style

RNG = np.random.default_rng(0)


def case(k: int, n: int = 60) -> tuple[Any, Any, Any, list[str]]:
    labels = [f"class number {i}" for i in range(k)]
    y = np.array(labels)[np.concatenate([np.arange(k), RNG.integers(0, k, n - k)])]
    probabilities = RNG.dirichlet(np.ones(k), n)
    return y, np.array(labels)[probabilities.argmax(axis=1)], probabilities, labels


def texts(figure: Any) -> str:
    figure.canvas.draw()
    return "\n".join(t.get_text() for t in figure.findobj(match=lambda a: hasattr(a, "get_text")))


def size(content: bytes) -> tuple[int, int]:
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


@pytest.mark.parametrize("k", [2, 3, 10, 30])
def test_a_confusion_matrix_shows_every_class(k: int) -> None:
    labels = [f"c{i}" for i in range(k)]
    figure = pictures.plot_confusion_matrix(RNG.integers(0, 9, (k, k)), labels, "model: run")
    shown = texts(figure)
    assert "model: run" in shown
    assert all(label in shown for label in labels)
    width, height = size(style.to_png(figure))
    assert 300 < height <= width < 2000


def test_a_confusion_matrix_counts_correct_predictions() -> None:
    figure = pictures.plot_confusion_matrix(np.array([[7, 1], [0, 12]]), ["no", "yes"], "t")
    assert "19 of 20 held-out rows predicted correctly" in texts(figure)


def test_a_class_without_rows_does_not_divide_by_zero() -> None:
    style.to_png(pictures.plot_confusion_matrix(np.array([[7, 1], [0, 0]]), [False, True], "t"))


@pytest.mark.parametrize("k", [2, 3, 12])
def test_curves_are_drawn_for_two_and_for_many_classes(k: int) -> None:
    y, _, probabilities, labels = case(k)
    figure = pictures.plot_roc_pr_curves(y, probabilities, labels, "t")
    style.to_png(figure)
    curves = [line for line in figure.axes[0].lines if line.get_linewidth() == 2]
    assert len(curves) == {2: 1, 3: 3, 12: pictures.MAX_CURVES}[k]


def test_curves_of_many_classes_show_the_worst() -> None:
    y, _, probabilities, labels = case(12, 400)
    best = labels.index(y[0])
    probabilities[:, best] = y == labels[best]
    figure = pictures.plot_roc_pr_curves(y, probabilities, labels, "t")
    assert not any(labels[best] + "  " in text for text in texts(figure).split("\n"))


def test_targets_of_one_class_leave_the_curves_empty() -> None:
    probabilities = np.array([[0.9, 0.1]] * 5)
    style.to_png(pictures.plot_roc_pr_curves(np.zeros(5), probabilities, [0, 1], "t"))


@pytest.mark.parametrize("k", [2, 4])
def test_calibration_is_drawn(k: int) -> None:
    y, predicted, probabilities, labels = case(k)
    figure = pictures.plot_calibration(y, probabilities, predicted, labels, "t")
    assert "Calibration" in texts(figure)
    style.to_png(figure)


def test_calibration_points_are_frequencies_by_tenth() -> None:
    said = np.array([0.05, 0.05, 0.15, 0.99, 1.0, 1.0])
    happened = np.array([False, True, False, True, True, True])
    mean, share, spread = pictures.calibration_points(happened, said)
    np.testing.assert_allclose(mean, [0.05, 0.15, (0.99 + 1 + 1) / 3])
    np.testing.assert_allclose(share, [0.5, 0.0, 1.0])
    # Wilson's interval for 1 of 2 is 0.0945 to 0.9055.
    np.testing.assert_allclose(spread[:, 0], [0.4055, 0.4055], atol=1e-4)
    assert (share - spread[0] >= -1e-12).all()
    assert (share + spread[1] <= 1 + 1e-12).all()


@pytest.mark.parametrize("errors", [0.0, 1.0])
def test_residuals_are_drawn_even_without_errors(errors: float) -> None:
    y = RNG.normal(size=300)
    figure = pictures.plot_residuals(y, y + errors * RNG.normal(size=300), "t", "price")
    assert "true price" in texts(figure)
    style.to_png(figure)


def test_many_points_are_thinned() -> None:
    y = RNG.normal(size=20_000)
    figure = pictures.plot_residuals(y, y, "t", "price")
    assert len(figure.axes[0].collections[0].get_offsets()) == pictures.MAX_POINTS


def test_pyplot_is_never_imported() -> None:
    import subprocess

    code = (
        "import sys, numpy as np; from tidemill.steps.plots import evaluation, style;"
        "style.to_png(evaluation.plot_residuals(np.arange(9.), np.arange(9.), 't', 'y'));"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
