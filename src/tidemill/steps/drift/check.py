"""Has the data drifted? A window of predictions is compared with the profile of the training data.

An alarm needs three things: a difference that chance does not explain, corrected for the number of
comparisons (Benjamini-Hochberg over the features, the outputs and the classifier test); an effect
large enough to matter; and enough distinct rows. Where nothing has changed, the probability of any
alarm in a check is at most `alpha`.

Drift does not mean that the model is worse; `tidemill.steps.decay.check` decides that.

See decision 082.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tidemill.errors import DataError
from tidemill.policies import Drift
from tidemill.steps.drift.classifier_test import ClassifierTestResult, classifier_test
from tidemill.steps.drift.column_test import ColumnComparison, MinimumEffects, compare_column
from tidemill.steps.drift.duplicates import distinct_rows
from tidemill.steps.drift.histogram import read_histogram
from tidemill.steps.drift.picture_bins import PictureBins
from tidemill.steps.drift.profile_sample import joint_sample, numeric_matrix
from tidemill.steps.drift.two_sample import benjamini_hochberg

Window = Mapping[str, NDArray[Any]]

#: Seed of the rows and shuffles of the classifier test.
SEED = 0

#: A version registered without a bundle has no profile.
NO_PROFILE = (
    "No verdict: this version has no profile of its training data to compare with. Train the model"
    " with a Tidemill project, which makes a profile."
)
_OUTPUT, _CONFIDENCE = "output", "confidence"
_Key = tuple[str, str]  # ("column", name), ("output", "") or ("confidence", "")
_ClassifierTest = tuple[float, float, int, int]  # AUC, p-value, reference rows, window rows


class FeatureDrift(msgspec.Struct, frozen=True):
    """The comparison of one feature, or of the model's output or confidence.

    Attributes:
        name: The feature, or "output" or "confidence".
        kind: number, integer, boolean or text.
        test: The test with the strongest evidence.
        statistic: Kolmogorov-Smirnov distance of numbers, Jensen-Shannon distance of categories.
        p_value: All tests combined.
        p_adjusted: The same, corrected for the other features.
        effect: Share of rows that moved.
        drifted: Whether it is an alarm.
        missing_rate, unseen, out_of_range: Shares of the window's rows.
        detail: A sentence.
        checks: The p-value of each test.
        bins: Both distributions, for a picture.
    """

    name: str
    kind: str
    test: str
    statistic: float
    p_value: float
    p_adjusted: float
    effect: float
    drifted: bool
    missing_rate: float
    unseen: float
    out_of_range: float
    detail: str
    checks: dict[str, float]
    bins: PictureBins = msgspec.field(name="bars", default=PictureBins())


class DriftReport(msgspec.Struct, frozen=True):
    """The verdict on one window, with its evidence. `msgspec.json` reads and writes it.

    Attributes:
        rows: Rows in the window.
        distinct: Rows left after removing duplicates.
        enough: Whether there were enough distinct rows for a verdict.
        moved: Whether there is an alarm.
        summary: One sentence.
        features: The largest effect first.
        output, confidence: The model's answers and their probabilities.
        multivariate: The classifier test of all features together.
    """

    rows: int
    distinct: int
    enough: bool
    moved: bool
    summary: str
    features: tuple[FeatureDrift, ...] = ()
    output: FeatureDrift | None = None
    confidence: FeatureDrift | None = None
    multivariate: ClassifierTestResult | None = None

    @property
    def drifted(self) -> tuple[str, ...]:
        """The names of the features that drifted."""
        return tuple(feature.name for feature in self.features if feature.drifted)


def check_drift(
    profile: Mapping[str, Any],
    window: pd.DataFrame | Mapping[str, Any],
    outputs: Any = None,
    policy: Drift = Drift(),
    *,
    confidence: Any = None,
) -> DriftReport:
    """Compare a window with the profile of the training data.

    Args:
        profile: A bundle's profile.
        window: Inputs of the window's predictions: a frame, or arrays of equal length by name.
        outputs: [rows] the model's answers, labels or numbers.
        policy: The thresholds; when a check is due is not decided here.
        confidence: [rows] the probability of each answered label, for classifiers.

    Raises:
        DataError: The window lacks a feature of the profile, or its columns differ in length.
    """
    if not profile["columns"]:
        rows = len(next(iter(window.values()), ())) if isinstance(window, dict) else len(window)
        return DriftReport(rows, 0, False, False, NO_PROFILE)
    columns = _columns(profile, window, policy)
    rows = len(next(iter(columns.values()), ()))
    sample = joint_sample(profile, tuple(columns))
    kept = distinct_rows(columns, sample)
    if kept is not None:
        columns = {name: column[kept] for name, column in columns.items()}
        outputs, confidence = _take(outputs, kept), _take(confidence, kept)
    distinct = rows if kept is None else kept.size
    if distinct < policy.min_rows:
        return DriftReport(rows, distinct, False, False, _too_few(rows, distinct, policy))
    found = _compare_all(profile, columns, outputs, confidence, policy)
    joint = _classifier_test(profile, columns, sample, policy)
    return _report(profile, found, joint, (rows, distinct), policy)


def _columns(
    profile: Mapping[str, Any], window: pd.DataFrame | Mapping[str, Any], policy: Drift
) -> dict[str, NDArray[Any]]:
    names = [name for name in profile["columns"] if name not in policy.ignore]
    for name in names:
        if name not in window:
            raise DataError(f"The window has no column '{name}'.", field=name)
    columns = {name: np.asarray(window[name]) for name in names}
    if len({len(column) for column in columns.values()}) > 1:
        raise DataError("The window's columns differ in length.")
    return columns


def _take(values: Any, kept: NDArray[np.int64]) -> Any:
    return None if values is None else np.asarray(values)[kept]


def _compare_all(
    profile: Mapping[str, Any],
    columns: Window,
    outputs: Any,
    confidence: Any,
    policy: Drift,
) -> dict[_Key, ColumnComparison]:
    minimum = MinimumEffects(policy.effect, policy.fault)
    found: dict[_Key, ColumnComparison] = {
        ("column", name): compare_column(read_histogram(profile["columns"][name]), column, minimum)
        for name, column in columns.items()
    }
    for key, values in ((_OUTPUT, outputs), (_CONFIDENCE, confidence)):
        if values is not None and profile.get(key):
            found[key, ""] = compare_column(read_histogram(profile[key]), values, minimum)
    return found


def _classifier_test(
    profile: Mapping[str, Any], columns: Window, sample: Window, policy: Drift
) -> _ClassifierTest | None:
    if not policy.classifier or not sample or len(columns) < 2:
        return None
    reference, window = numeric_matrix(profile, sample, columns, SEED)
    auc, p_value = classifier_test(reference, window, SEED)
    return auc, p_value, len(reference), len(window)


def _report(
    profile: Mapping[str, Any],
    found: Mapping[_Key, ColumnComparison],
    joint: _ClassifierTest | None,
    size: tuple[int, int],
    policy: Drift,
) -> DriftReport:
    """The report on a window of `size`: all and distinct rows."""
    evidence = [comparison.evidence for comparison in found.values()]
    if joint is not None:
        evidence.append(joint[1] if joint[0] >= policy.separation else 1.0)
    adjusted = benjamini_hochberg(evidence)
    drifts = {
        key: _feature(key, comparison, profile, p_adjusted, policy)
        for (key, comparison), p_adjusted in zip(found.items(), adjusted, strict=False)
    }
    features = [drift for (place, _), drift in drifts.items() if place == "column"]
    multivariate = None
    if joint is not None:
        alarm = adjusted[-1] <= policy.alpha
        multivariate = ClassifierTestResult(joint[0], joint[1], adjusted[-1], alarm, *joint[2:])
    rows, distinct = size
    return DriftReport(
        rows=rows,
        distinct=distinct,
        enough=True,
        moved=bool(adjusted) and min(adjusted) <= policy.alpha,
        summary=_summary(list(drifts.values()), multivariate, rows, distinct),
        features=tuple(sorted(features, key=lambda f: (-f.drifted, -f.effect))),
        output=drifts.get((_OUTPUT, "")),
        confidence=drifts.get((_CONFIDENCE, "")),
        multivariate=multivariate,
    )


def _feature(
    key: _Key,
    found: ColumnComparison,
    profile: Mapping[str, Any],
    p_adjusted: float,
    policy: Drift,
) -> FeatureDrift:
    place, column = key
    entry = profile["columns"][column] if place == "column" else profile[place]
    name = column or place
    numeric = "number" if "edges" in entry else "text"
    drifted = p_adjusted <= policy.alpha
    verdict = "drifted" if drifted else "no alarm"
    return FeatureDrift(
        name=name,
        kind=str(entry.get("kind", numeric)),
        test=found.strongest.test,
        statistic=found.statistic,
        p_value=found.p_value,
        p_adjusted=p_adjusted,
        effect=found.effect,
        drifted=drifted,
        missing_rate=found.missing_rate,
        unseen=found.unseen,
        out_of_range=found.out_of_range,
        detail=f"{name} ({verdict}): {found.description}; {found.effect:.1%} of rows moved, "
        f"{found.missing_rate:.1%} are missing.",
        checks={check.test: check.p_value for check in found.checks},
        bins=found.bins,
    )


def _summary(
    drifts: list[FeatureDrift], joint: ClassifierTestResult | None, rows: int, distinct: int
) -> str:
    drifted = sorted((d for d in drifts if d.drifted), key=lambda d: -d.effect)
    window = f"{rows:,} rows" + (f" ({distinct:,} distinct)" if distinct < rows else "")
    if drifted:
        named = ", ".join(f"'{d.name}' ({d.effect:.0%})" for d in drifted[:3])
        more = f" and {len(drifted) - 3} more" if len(drifted) > 3 else ""
        return f"The data moved: {named}{more}, in a window of {window}."
    if joint is not None and joint.moved:
        return (
            f"The data moved jointly: no single feature did, but a classifier separates the window "
            f"of {window} from the training rows with an AUC of {joint.auc:.2f}."
        )
    return f"The data has not moved, in a window of {window}."


def _too_few(rows: int, distinct: int, policy: Drift) -> str:
    duplicates = f", {rows - distinct:,} of them duplicates" if distinct < rows else ""
    return f"No verdict: {rows:,} rows{duplicates}; {policy.min_rows} distinct rows are needed."
