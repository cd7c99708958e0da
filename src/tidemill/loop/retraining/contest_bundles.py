"""The contestants' bundles, loaded once, and the labelled rows they predict.

A contest is evaluated again after every few labels, on all its rows. A bundle's prediction for a
row does not change, so only new rows are predicted.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tidemill import bundle
from tidemill.bundle import Bundle
from tidemill.errors import BundleError
from tidemill.loop.promotion.bundle_evaluation import BundleEvaluator, accepted_rows
from tidemill.steps.gate.gate import VersionEvidence
from tidemill.stores.mlflow.registry import Registry
from tidemill.stores.predictions.predictions import Predictions
from tidemill.stores.predictions.windows import Window

logger = logging.getLogger(__name__)

#: Seconds by which a label's time may precede its prediction's: the database and the server have
#: different clocks.
CLOCK_SKEW = 3600.0


@dataclass(frozen=True)
class ContestRows:
    """Labelled rows in the order in which their labels arrived.

    Attributes:
        ids: The predictions' ids.
        frame: [rows, inputs].
        actual: [rows] the truth.
    """

    ids: list[str]
    frame: Any
    actual: Any


class ContestantBundles:
    """The loaded bundles of one contest, by version number.

    Args:
        tau: Autocorrelation time of the losses before the contest, in rows.
        trusted: Types that this machine trusts a native fallback with.

    Raises:
        BundleError: A model cannot be loaded.
    """

    def __init__(
        self, bundles: Mapping[str, Bundle], tau: float, *, trusted: Sequence[str] = ()
    ) -> None:
        self.bundles, self.tau = dict(bundles), tau
        self._evaluators = {
            n: BundleEvaluator(each, trusted=trusted) for n, each in bundles.items()
        }
        self._positions: dict[str, int] = {}
        self._evidence: dict[str, VersionEvidence] = {}
        self._lock = threading.Lock()

    def predict(self, ids: Sequence[str], frame: Any) -> dict[str, VersionEvidence]:
        """Predict the rows with every version.

        Args:
            ids: [rows] of the predictions; rows with the same id are the same row.
            frame: [rows, inputs] that all versions accept.
        """
        with self._lock:
            new = np.array([n for n, id in enumerate(ids) if id not in self._positions], int)
            if new.size or not self._evidence:
                for number, evaluator in self._evaluators.items():
                    found = evaluator.evidence(frame.iloc[new])
                    before = self._evidence.get(number)
                    self._evidence[number] = found if before is None else _joined(before, found)
                first = len(self._positions)
                self._positions |= {ids[row]: first + n for n, row in enumerate(new.tolist())}
            rows = np.array([self._positions[id] for id in ids], int)
            return {number: take_rows(each, rows) for number, each in self._evidence.items()}


def take_rows(evidence: VersionEvidence, rows: Any) -> VersionEvidence:
    """Return the predictions of some rows, given by positions or a slice."""
    probabilities = evidence.probabilities
    return replace(
        evidence,
        predicted=evidence.predicted[rows],
        probabilities=None if probabilities is None else probabilities[rows],
    )


def _joined(before: VersionEvidence, new: VersionEvidence) -> VersionEvidence:
    probabilities = before.probabilities
    if probabilities is not None:
        assert new.probabilities is not None
        probabilities = np.concatenate([probabilities, new.probabilities])
    predicted = np.concatenate([before.predicted, new.predicted])
    return replace(before, predicted=predicted, probabilities=probabilities)


def labelled_rows(
    predictions: Predictions, model: str, since: float, bundles: Mapping[str, Bundle], most: int
) -> ContestRows:
    """Return the first `most` labelled rows predicted since then that every bundle accepts."""
    fetched = 2 * most  # some may not be accepted
    while True:
        window = predictions.window(
            model, since=since, labelled_since=since - CLOCK_SKEW, first=fetched
        )
        found = _accepted_by_all(window, bundles, most)
        if len(found.ids) == most or len(window) < fetched:
            return found
        fetched *= 4


def _accepted_by_all(window: Window, bundles: Mapping[str, Bundle], most: int) -> ContestRows:
    kept = np.flatnonzero(window.stored)
    kept = kept[label_order(window, kept)]
    first = next(iter(bundles.values()))
    actual = window.actual[kept]
    actual = actual.astype(np.float64) if first.signature.task == "regression" else actual
    if window.frame is None or kept.size == 0:
        return ContestRows([], _no_rows(first), actual[:0])
    frame = window.frame.iloc[kept].reset_index(drop=True)
    good = np.ones(len(frame), dtype=bool)
    for each in bundles.values():
        good &= accepted_rows(frame, each.signature)
    chosen = np.flatnonzero(good)[:most]
    ids = window.ids[kept][chosen].tolist()
    return ContestRows(ids, frame.iloc[chosen], actual[chosen])


def cached_bundle(registry: Registry, model: str, number: str, folder: Path) -> Bundle:
    """Return a version's bundle from `folder`, fetched if it is missing or damaged there.

    Raises:
        NotFoundError: There is no such version, or it has no bundle.
    """
    version = registry.version(model, number)
    own = folder / str(version.digest)
    for path in (own / "bundle", own):
        if version.digest is not None and (path / "manifest.json").is_file():
            try:
                return bundle.read(path, digest=version.digest)
            except BundleError:
                logger.warning("%s is damaged; fetching it again", path)
    return registry.fetch_bundle(version, own)


def label_order(window: Window, kept: Any) -> Any:
    """Order rows by the arrival of their labels; those that arrived together, by prediction."""
    return np.lexsort((window.ids[kept].astype(str), window.times[kept], window.label_times[kept]))


def _no_rows(held: Bundle) -> Any:
    import pandas as pd  # not needed in a process that only reads bundles

    return pd.DataFrame({name: [] for name in held.signature.names})
