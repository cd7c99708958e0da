"""What every server is asked, and what it has to answer: scikit-learn's own labels."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.serving.peer import Rows
from benchmarks.serving.train import fit, split

COUNTS = {1: 64, 100: 16}  # rows a request -> how many different requests take turns


@dataclass(frozen=True)
class Question:
    rows: Rows
    labels: list[int]


def ask(model: str) -> dict[int, list[Question]]:
    """Requests by the number of rows they hold, out of the 114 test rows, going round."""
    _, X, _, _ = split()
    labels = [int(label) for label in fit(model).predict(X)]
    rows: Rows = X.tolist()
    return {
        size: [_take(rows, labels, start, size) for start in range(count)]
        for size, count in COUNTS.items()
    }


def _take(rows: Rows, labels: list[int], start: int, size: int) -> Question:
    places = [(start * 7 + offset) % len(rows) for offset in range(size)]
    return Question([rows[i] for i in places], [labels[i] for i in places])
