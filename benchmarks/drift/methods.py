"""Alarm methods: Tidemill's check and the methods it is compared with.

Every method gets the same window; the peers get all training rows, Tidemill only their profile.
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
    """Run Tidemill's drift check with its default policy."""
    return check_drift(
        situation.profile,
        situation.window,
        situation.outputs,
        confidence=situation.confidence,
    )


def ks(situation: Situation) -> bool:
    """Alarm if the Kolmogorov-Smirnov test rejects at 5% for any feature."""
    return bool(np.min(_ks_p(situation)) < 0.05)


def ks_bh(situation: Situation) -> bool:
    """Alarm if any test rejects at 1% after the Benjamini-Hochberg correction."""
    return min(benjamini_hochberg(_ks_p(situation))) < 0.01


def psi(situation: Situation) -> bool:
    """Alarm if any feature's PSI over ten training deciles exceeds 0.2."""
    pairs = zip(_columns(situation.train), _columns(situation.window), strict=True)
    return max(_psi(before, after) for before, after in pairs) > 0.2


PEERS: dict[str, Method] = {
    "KS per feature, 5%": ks,
    "KS + Benjamini-Hochberg, 1%": ks_bh,
    "PSI > 0.2": psi,
}


def _columns(frame: pd.DataFrame) -> list[np.ndarray]:
    """Return the non-missing values of each column; the peers do not test missing values."""
    return [values[~np.isnan(values)] for values in frame.to_numpy().T]


def _ks_p(situation: Situation) -> list[float]:
    pairs = zip(_columns(situation.train), _columns(situation.window), strict=True)
    return [float(stats.ks_2samp(before, after, method="asymp").pvalue) for before, after in pairs]


def _psi(before: np.ndarray, after: np.ndarray) -> float:
    cuts = np.unique(np.quantile(before, np.linspace(0, 1, 11)[1:-1]))
    p, q = (_shares(np.searchsorted(cuts, values), cuts.size + 1) for values in (before, after))
    return float(((p - q) * np.log(p / q)).sum())


def _shares(bins: np.ndarray, size: int) -> np.ndarray:
    counts = np.maximum(np.bincount(bins, minlength=size), 1e-4 * bins.size)
    return counts / counts.sum()
