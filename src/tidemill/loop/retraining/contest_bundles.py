"""Those who compete in a contest: their bundles, loaded once, their rows, and their answers so far.

A contest is looked at after every few labels, and each look needs the answers to all its rows. What
a bundle answers to a row does not change, so only new rows are asked about.
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

#: Seconds by which a label may seem to be known before its prediction was asked: the database has
#: another clock than the server.
CLOCKS_APART = 3600.0


@dataclass(frozen=True)
class ContestRows:
    """The rows of a contest in the order in which their labels came, with the predictions' ids."""

    ids: list[str]
    frame: Any
    actual: Any


class ContestantBundles:
    """The bundles of one contest, by version.

    Args:
        memory: How long the champion's spells lasted before the contest.
        trusted: Types that this machine trusts a native fallback with.

    Raises:
        BundleError: A model cannot be loaded.
    """

    def __init__(
        self, held: Mapping[str, Bundle], tau: float, *, trusted: Sequence[str] = ()
    ) -> None:
        self.bundles, self.tau = dict(held), tau
        self._examiners = {n: BundleEvaluator(each, trusted=trusted) for n, each in held.items()}
        self._places: dict[str, int] = {}
        self._answers: dict[str, VersionEvidence] = {}
        self._lock = threading.Lock()

    def answers(self, ids: Sequence[str], frame: Any) -> dict[str, VersionEvidence]:
        """What each version answers to the rows.

        Args:
            ids: [rows] of the predictions; a row of the same id is the same row.
            frame: [rows, inputs] that all of them accept.
        """
        with self._lock:
            new = np.array([place for place, id in enumerate(ids) if id not in self._places], int)
            if new.size or not self._answers:
                for number, examiner in self._examiners.items():
                    found = examiner.outcome(frame.iloc[new])
                    before = self._answers.get(number)
                    self._answers[number] = found if before is None else _joined(before, found)
                first = len(self._places)
                self._places |= {ids[place]: first + n for n, place in enumerate(new.tolist())}
            rows = np.array([self._places[id] for id in ids], int)
            return {number: take_rows(each, rows) for number, each in self._answers.items()}


def take_rows(outcome: VersionEvidence, rows: Any) -> VersionEvidence:
    """The answers to some of the rows: places, or a slice."""
    chances = outcome.probabilities
    return replace(
        outcome,
        predicted=outcome.predicted[rows],
        probabilities=None if chances is None else chances[rows],
    )


def _joined(before: VersionEvidence, new: VersionEvidence) -> VersionEvidence:
    chances = before.probabilities
    if chances is not None:
        assert new.probabilities is not None
        chances = np.concatenate([chances, new.probabilities])
    predicted = np.concatenate([before.predicted, new.predicted])
    return replace(before, predicted=predicted, probabilities=chances)


def labelled_rows(
    predictions: Predictions, model: str, since: float, held: Mapping[str, Bundle], most: int
) -> ContestRows:
    """The labelled rows asked since then that every bundle takes, the first `most` of them."""
    asked = 2 * most  # some may not be taken
    while True:
        window = predictions.window(
            model, since=since, labelled_since=since - CLOCKS_APART, first=asked
        )
        found = _taken_by_all(window, held, most)
        if len(found.ids) == most or len(window) < asked:
            return found
        asked *= 4


def _taken_by_all(window: Window, held: Mapping[str, Bundle], most: int) -> ContestRows:
    kept = np.flatnonzero(window.stored)
    kept = kept[label_order(window, kept)]
    first = next(iter(held.values()))
    actual = window.actual[kept]
    actual = actual.astype(np.float64) if first.signature.task == "regression" else actual
    if window.frame is None or kept.size == 0:
        return ContestRows([], _nothing(first), actual[:0])
    frame = window.frame.iloc[kept].reset_index(drop=True)
    good = np.ones(len(frame), dtype=bool)
    for each in held.values():
        good &= accepted_rows(frame, each.signature)
    chosen = np.flatnonzero(good)[:most]
    ids = window.ids[kept][chosen].tolist()
    return ContestRows(ids, frame.iloc[chosen], actual[chosen])


def cached_bundle(registry: Registry, model: str, number: str, folder: Path) -> Bundle:
    """A version's bundle out of `folder`, fetched into it when it is not there or is damaged.

    Raises:
        NotFoundError: There is no such version, or it has no bundle.
    """
    version = registry.version(model, number)
    place = folder / str(version.digest)
    for path in (place / "bundle", place):
        if version.digest is not None and (path / "manifest.json").is_file():
            try:
                return bundle.read(path, digest=version.digest)
            except BundleError:
                logger.warning("%s is damaged and is fetched again", path)
    return registry.fetch_bundle(version, place)


def label_order(window: Window, kept: Any) -> Any:
    """The order in which labels came; what came at once is in the order of the predictions."""
    return np.lexsort((window.ids[kept].astype(str), window.times[kept], window.label_times[kept]))


def _nothing(held: Bundle) -> Any:
    import pandas as pd

    return pd.DataFrame({name: [] for name in held.signature.names})
