"""Has the data moved? A window of predictions against the profile of the training data.

An alarm needs three things: a difference that chance does not explain, corrected for the number of
comparisons (Benjamini-Hochberg over the features, the outputs and the classifier test together);
an effect large enough to matter; and enough rows that do not merely repeat each other. When
nothing has changed, the chance of any alarm in a check is at most `alpha`.

That data has moved does not mean that the model is worse: `tidemill.steps.decay.check` judges that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tidemill.errors import DataError
from tidemill.steps.drift.classifier_test import ClassifierTestResult, classifier_test
from tidemill.steps.drift.column_test import ColumnComparison, MinimumEffects, compare_column
from tidemill.steps.drift.duplicates import distinct_rows
from tidemill.steps.drift.histogram import read_histogram
from tidemill.steps.drift.picture_bins import PictureBins
from tidemill.steps.drift.profile_sample import joint_sample, numeric_matrix
from tidemill.steps.drift.two_sample import benjamini_hochberg

Window = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class DriftPolicy:
    """When moved data is an alarm.

    Args:
        alpha: The chance of any alarm in one check of a window in which nothing has changed.
        effect: The smallest share of rows that must have moved (Kolmogorov-Smirnov distance, or
            total variation of categories). 0.05 is a shift of an eighth of a standard deviation.
        fault: The same for missing, never seen and out-of-range values.
        separation: The smallest AUC at which the classifier test counts.
        min_rows: A window of fewer distinct rows gets no verdict.
        classifier: Whether to run the classifier two-sample test.
        ignore: Features not to look at (a date, a counter).
        seed: Fixes the rows and shuffles of the classifier test.
    """

    alpha: float = 0.01
    effect: float = 0.05
    fault: float = 0.01
    separation: float = 0.55
    min_rows: int = 50
    classifier: bool = True
    ignore: tuple[str, ...] = ()
    seed: int = 0


class FeatureDrift(msgspec.Struct, frozen=True):
    """What was found about one feature, or about the model's output.

    `statistic` is the Kolmogorov-Smirnov distance of numbers, the Jensen-Shannon distance of
    categories; `effect` is the share of rows that moved; `test` the check that said most;
    `p_value` all its checks combined, `p_adjusted` also corrected for the other features. The
    three shares are of the window's rows. `checks` has the p-value of each check.
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
    bars: PictureBins = PictureBins()


class DriftReport(msgspec.Struct, frozen=True):
    """The verdict on one window, and what it rests on. `msgspec.json` reads and writes it.

    `features` come with the largest effect first. `rows` is the size of the window, `distinct`
    what was left after taking repeated rows once.
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
    policy: DriftPolicy = DriftPolicy(),
    *,
    confidence: Any = None,
) -> DriftReport:
    """Compare a window with the profile.

    Args:
        profile: A bundle's profile.
        window: The inputs of the window's predictions: a frame, or arrays of equal length by name.
        outputs: What the model answered, [rows]: labels or numbers.
        policy: When moved data is an alarm.
        confidence: The probability of each answered label, [rows], of a classifier.

    Raises:
        DataError: A feature of the profile is not in the window, or the columns' lengths differ.
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
        outputs, confidence = _rows(outputs, kept), _rows(confidence, kept)
    distinct = rows if kept is None else kept.size
    if distinct < policy.min_rows:
        return DriftReport(rows, distinct, False, False, _too_few(rows, distinct, policy))
    found = _compare_all(profile, columns, outputs, confidence, policy)
    auc = _separate(profile, columns, sample, policy)
    return _report(profile, found, auc, rows, distinct, policy)


#: Of a version that was registered without a bundle nobody knows what it was trained on.
NO_PROFILE = (
    "No verdict: this version came without a profile of its training data, so there is nothing to"
    " compare with. Train the model with a Tidemill project, and its versions have one."
)
_OUTPUT, _CONFIDENCE = "output", "confidence"
_Key = tuple[str, str]  # ("column", name), ("output", "") or ("confidence", "")
_Auc = tuple[float, float, int, int]  # auc, p-value, reference rows, window rows


def _columns(
    profile: Mapping[str, Any], window: pd.DataFrame | Mapping[str, Any], policy: DriftPolicy
) -> dict[str, NDArray[Any]]:
    wanted = [name for name in profile["columns"] if name not in policy.ignore]
    for name in wanted:
        if name not in window:
            raise DataError(f"The window has no column '{name}'.", field=name)
    columns = {name: np.asarray(window[name]) for name in wanted}
    if len({len(column) for column in columns.values()}) > 1:
        raise DataError("The window's columns are not of one length.")
    return columns


def _rows(values: Any, kept: NDArray[np.int64]) -> Any:
    return None if values is None else np.asarray(values)[kept]


def _compare_all(
    profile: Mapping[str, Any],
    columns: Window,
    outputs: Any,
    confidence: Any,
    policy: DriftPolicy,
) -> dict[_Key, ColumnComparison]:
    limits = MinimumEffects(policy.effect, policy.fault)
    found: dict[_Key, ColumnComparison] = {
        ("column", name): compare_column(read_histogram(profile["columns"][name]), column, limits)
        for name, column in columns.items()
    }
    for key, values in ((_OUTPUT, outputs), (_CONFIDENCE, confidence)):
        if values is not None and profile.get(key):
            found[key, ""] = compare_column(read_histogram(profile[key]), values, limits)
    return found


def _separate(
    profile: Mapping[str, Any], columns: Window, sample: Window, policy: DriftPolicy
) -> _Auc | None:
    if not policy.classifier or not sample or len(columns) < 2:
        return None
    reference, window = numeric_matrix(profile, sample, columns, policy.seed)
    auc, p_value = classifier_test(reference, window, policy.seed)
    return auc, p_value, len(reference), len(window)


def _report(
    profile: Mapping[str, Any],
    found: Mapping[_Key, ColumnComparison],
    auc: _Auc | None,
    rows: int,
    distinct: int,
    policy: DriftPolicy,
) -> DriftReport:
    evidence = [comparison.evidence for comparison in found.values()]
    if auc is not None:
        evidence.append(auc[1] if auc[0] >= policy.separation else 1.0)
    adjusted = benjamini_hochberg(evidence)
    drifts = {
        key: _feature(key, comparison, profile, p_adjusted, policy)
        for (key, comparison), p_adjusted in zip(found.items(), adjusted, strict=False)
    }
    features = [drift for (place, _), drift in drifts.items() if place == "column"]
    separation = None
    if auc is not None:
        separation = ClassifierTestResult(
            auc[0], auc[1], adjusted[-1], adjusted[-1] <= policy.alpha, *auc[2:]
        )
    moved = bool(adjusted) and min(adjusted) <= policy.alpha
    return DriftReport(
        rows=rows,
        distinct=distinct,
        enough=True,
        moved=moved,
        summary=_summary(list(drifts.values()), separation, rows, distinct),
        features=tuple(sorted(features, key=lambda f: (-f.drifted, -f.effect))),
        output=drifts.get((_OUTPUT, "")),
        confidence=drifts.get((_CONFIDENCE, "")),
        multivariate=separation,
    )


def _feature(
    key: _Key,
    found: ColumnComparison,
    profile: Mapping[str, Any],
    p_adjusted: float,
    policy: DriftPolicy,
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
        detail=f"{name} ({verdict}): {found.story}; {found.effect:.1%} of rows moved, "
        f"{found.missing_rate:.1%} are missing.",
        checks={check.test: check.p_value for check in found.checks},
        bars=found.bars,
    )


def _summary(
    drifts: list[FeatureDrift], separation: ClassifierTestResult | None, rows: int, distinct: int
) -> str:
    drifted = sorted((d for d in drifts if d.drifted), key=lambda d: -d.effect)
    window = f"{rows:,} rows" + (f" ({distinct:,} distinct)" if distinct < rows else "")
    if drifted:
        named = ", ".join(f"'{d.name}' ({d.effect:.0%})" for d in drifted[:3])
        more = f" and {len(drifted) - 3} more" if len(drifted) > 3 else ""
        return f"The data moved: {named}{more}, in a window of {window}."
    if separation is not None and separation.moved:
        return (
            f"The data moved jointly: no single feature did, but a classifier tells the window of "
            f"{window} from the training rows with an AUC of {separation.auc:.2f}."
        )
    return f"The data has not moved, in a window of {window}."


def _too_few(rows: int, distinct: int, policy: DriftPolicy) -> str:
    repeats = f", {rows - distinct:,} of which repeat others" if distinct < rows else ""
    return f"No verdict: {rows:,} rows{repeats}; {policy.min_rows} distinct ones are needed."
