"""Staleness: is the champion out of date, compared with a model of its kind from newer rows?

A model can be far from what is possible now without having degraded: it was trained while the data
were already changing, or they change so slowly that its losses stay within what held-out rows
allow. The newer model is trained on as many rows as the champion, so it can be better only because
its rows are newer. See decision 103.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tidemill.policies import Contest
from tidemill.steps.retraining.contest import decide_contest

Floats = NDArray[np.float64]

#: The newer model is trained on as many rows as the champion, but at most this many.
MAX_TRAINING_ROWS = 2_000

#: The limit after a contest that the champion won, so that the next check comes sooner and uses the
#: newest rows.
MAX_TRAINING_ROWS_AFTER_KEPT = 500

#: The champion is out of date if the newer model has less than this share of its loss. Two models
#: from equally many rows of one distribution rarely differ by a fifth.
SHARE = 0.8

#: Probability of calling the champion out of date when the newer model is not that much better.
ALPHA = 0.005


def is_outdated(champion: Floats, newer: Floats, policy: Contest) -> bool:
    """Return whether the newer model's loss is shown to be below `SHARE` of the champion's.

    Args:
        champion, newer: [rows] losses, 0 to 1, on the newest rows, on which neither was trained.
        policy: `fewest` is used.
    """
    strict = replace(policy, alpha=ALPHA, rows=max(len(champion) + 1, policy.fewest))
    return decide_contest(SHARE * champion, {"newer": newer}, strict).state == "won"
