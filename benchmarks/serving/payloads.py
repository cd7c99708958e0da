"""Request payloads with their expected labels, as predicted by scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.serving.peer import Rows
from benchmarks.serving.train import fit, split

COUNTS = {1: 64, 100: 16}  # rows per request -> number of distinct requests


@dataclass(frozen=True)
class Payload:
    rows: Rows
    labels: list[int]


def make_payloads(model: str) -> dict[int, list[Payload]]:
    """Build payloads from the 114 test rows, cyclically, keyed by rows per request."""
    _, X, _, _ = split()
    labels = [int(label) for label in fit(model).predict(X)]
    rows: Rows = X.tolist()
    return {
        size: [_take(rows, labels, start, size) for start in range(count)]
        for size, count in COUNTS.items()
    }


def _take(rows: Rows, labels: list[int], start: int, size: int) -> Payload:
    indices = [(start * 7 + offset) % len(rows) for offset in range(size)]
    return Payload([rows[i] for i in indices], [labels[i] for i in indices])
