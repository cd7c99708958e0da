"""Those who compete in a contest: their bundles, loaded once, and what they answered so far.

A contest is looked at after every few labels, and each look needs the answers to all its rows. What
a bundle answers to a row does not change, so only new rows are asked about.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tidemill.bundle import Bundle
from tidemill.loop.examine import Examiner
from tidemill.steps.gate import Outcome


class Contestants:
    """The bundles of one contest, by version.

    Args:
        before: The champion's losses before the contest.
        trusted: Types that this machine trusts a native fallback with.

    Raises:
        BundleError: A model cannot be loaded.
    """

    def __init__(
        self, held: Mapping[str, Bundle], before: Any, *, trusted: Sequence[str] = ()
    ) -> None:
        self.held, self.before = dict(held), before
        self._examiners = {n: Examiner(each, trusted=trusted) for n, each in held.items()}
        self._places: dict[str, int] = {}
        self._answers: dict[str, Outcome] = {}
        self._lock = threading.Lock()

    def answers(self, ids: Sequence[str], frame: Any) -> dict[str, Outcome]:
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
            return {number: taken(each, rows) for number, each in self._answers.items()}


def taken(outcome: Outcome, rows: Any) -> Outcome:
    """The answers to some of the rows: places, or a slice."""
    chances = outcome.probabilities
    return replace(
        outcome,
        predicted=outcome.predicted[rows],
        probabilities=None if chances is None else chances[rows],
    )


def _joined(before: Outcome, new: Outcome) -> Outcome:
    chances = before.probabilities
    if chances is not None:
        assert new.probabilities is not None
        chances = np.concatenate([chances, new.probabilities])
    predicted = np.concatenate([before.predicted, new.predicted])
    return replace(before, predicted=predicted, probabilities=chances)
