"""Is the champion out of date? A model of its kind, from as many but newer rows, spars with it.

A model can be far from what is possible now without being worse than it was: it was trained while
things were already changing, or they change so slowly that its losses never leave what held-out
rows allow. The sparring partner learns from as many rows as the champion did, so that it cannot be
better for having seen more: only for having seen newer ones.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tidemill.policies import Contest
from tidemill.steps.retraining.contest import decide_contest

Floats = NDArray[np.float64]

#: The partner learns from as many rows as the champion did, but no more than this.
MAX_TRAINING_ROWS = 2_000

#: After a retraining that found nothing better, no more than this: sooner, and by the newest rows.
MAX_TRAINING_ROWS_AFTER_KEPT = 500

#: The champion is out of date when the partner has less than this share of its loss. Two models
#: from equally many rows of one law differ by luck; seldom by a fifth.
SHARE = 0.8

#: The chance that the partner is found better by that much when it is not.
ALPHA = 0.005


def is_outdated(champion: Floats, partner: Floats, policy: Contest) -> bool:
    """Whether the partner's loss is proven to be below `SHARE` of the champion's.

    Args:
        champion, partner: Losses [rows] in 0 to 1 on the newest rows, which neither learned from.
    """
    asked = replace(policy, alpha=ALPHA, rows=max(len(champion) + 1, policy.fewest))
    return decide_contest(SHARE * champion, {"partner": partner}, asked).state == "won"
