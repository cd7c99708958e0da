"""What raises an alarm: Tidemill's check, and the methods it is compared with.

Every method sees the same training rows and the same window; the peers get all training rows,
Tidemill only the profile.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import stats

from benchmarks.drift.data import Situation
from tidemill.steps.drift.check import DriftReport, check_drift
from tidemill.steps.drift.two_sample import benjamini_hochberg

Method = Callable[[Situation], bool]


def tidemill(situation: Situation) -> DriftReport:
    """The check with its default policy."""
    return check_drift(
        situation.profile,
        situation.window,
        situation.outputs,
        confidence=situation.confidence,
    )


def ks(situation: Situation) -> bool:
    """Kolmogorov-Smirnov at 5% for each feature; any feature alarms."""
    return bool(np.min(_ks_p(situation)) < 0.05)


def ks_bh(situation: Situation) -> bool:
    """The same at 1%, corrected by Benjamini-Hochberg."""
    return min(benjamini_hochberg(_ks_p(situation))) < 0.01


def psi(situation: Situation) -> bool:
    """Population stability index over ten training deciles above 0.2 for any feature."""
    pairs = zip(_columns(situation.train), _columns(situation.window), strict=True)
    return max(_psi(before, after) for before, after in pairs) > 0.2


PEERS: dict[str, Method] = {
    "KS per feature, 5%": ks,
    "KS + Benjamini-Hochberg, 1%": ks_bh,
    "PSI > 0.2": psi,
}


def _columns(frame: pd.DataFrame) -> list[np.ndarray]:
    """The values of each column that are there; the peers have no test for the others."""
    return [values[~np.isnan(values)] for values in frame.to_numpy().T]


def _ks_p(situation: Situation) -> list[float]:
    pairs = zip(_columns(situation.train), _columns(situation.window), strict=True)
    return [float(stats.ks_2samp(before, after, method="asymp").pvalue) for before, after in pairs]


def _psi(before: np.ndarray, after: np.ndarray) -> float:
    cuts = np.unique(np.quantile(before, np.linspace(0, 1, 11)[1:-1]))
    p, q = (_shares(np.searchsorted(cuts, values), cuts.size + 1) for values in (before, after))
    return float(((p - q) * np.log(p / q)).sum())


def _shares(cells: np.ndarray, size: int) -> np.ndarray:
    counts = np.maximum(np.bincount(cells, minlength=size), 1e-4 * cells.size)
    return counts / counts.sum()
