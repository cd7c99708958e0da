"""What a project says about monitoring, retraining and promotion to live traffic.

    project = Project(
        ...,
        drift=Drift(rows=500, ignore=("Signed Up",)),
        decay=Decay(metric="accuracy", tolerance=0.01),
        retrain=Retraining(on=("decay", "labels"), new_labels=5000, cooldown="6h"),
        contest=Contest(alpha=0.01),
        challenge=Challenge(max_latency=2.0),
    )

With the defaults, drift is reported and nothing more; a model is retrained when labels, or its own
confidences, show that it has degraded. A duration is a number of seconds, or a text such as "90s",
"30m", "12h" or "7d".
"""

from __future__ import annotations

import functools
import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from tidemill.errors import ProjectError

#: Why a model may be retrained. `estimate` is decay seen in confidences alone, without labels.
Cause = Literal["drift", "decay", "estimate", "schedule", "labels", "manual"]
CAUSES: tuple[Cause, ...] = get_args(Cause)

#: The causes that a monitoring check can find.
CHECKED_CAUSES: tuple[Cause, ...] = ("drift", "decay", "estimate")

Duration = float | int | str
T = TypeVar("T")
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _former_arguments(*removed: str, **renamed: str) -> Callable[[type[T]], type[T]]:
    """Accept former constructor arguments for one release, with a warning.

    Removed ones have no effect, which the user should see: a FutureWarning. Renamed ones still
    work: a DeprecationWarning.
    """

    def decorate(kind: type[T]) -> type[T]:
        init: Callable[..., None] = kind.__init__

        @functools.wraps(init)
        def accept(self: T, *args: Any, **given: Any) -> None:
            for name in removed:
                if name in given:
                    message = f"{kind.__name__}({name}=...) was removed and has no effect."
                    warnings.warn(message, FutureWarning, stacklevel=2)
                    del given[name]
            for old, new in renamed.items():
                if old in given:
                    message = f"{kind.__name__}({old}=...) is deprecated; use {new}=..."
                    warnings.warn(message, DeprecationWarning, stacklevel=2)
                    given[new] = given.pop(old)
            init(self, *args, **given)

        kind.__init__ = accept  # type: ignore[method-assign, assignment]
        return kind

    return decorate


@dataclass(frozen=True)
class Drift:
    """When a difference between live inputs and training data is an alarm.

    Args:
        rows: Predictions in a monitoring window. A check runs when this many have arrived since the
            last one, so windows do not overlap and each row is checked once.
        age: A check also runs after this long, on the rows that have arrived; None waits for
            `rows`.
        min_rows: A window with fewer distinct rows gets no verdict.
        alpha: Probability of any alarm in one check of a window in which nothing has changed.
        effect: Smallest share of rows that must have moved (Kolmogorov-Smirnov distance of numbers,
            total variation of categories). 0.05 is a shift of an eighth of a standard deviation.
        fault: Smallest share of missing, unseen or out-of-range values.
        separation: Smallest AUC at which the classifier two-sample test counts.
        classifier: Whether to run the classifier two-sample test of all features together.
        ignore: Features to leave out, such as a date or a counter.
        consecutive: Number of consecutive checks that must find drift before it is an alarm.

    Raises:
        ProjectError: A value is out of range.
    """

    rows: int = 1000
    age: Duration | None = "1d"
    min_rows: int = 50
    alpha: float = 0.01
    effect: float = 0.05
    fault: float = 0.01
    separation: float = 0.55
    classifier: bool = True
    ignore: tuple[str, ...] = ()
    consecutive: int = 1

    def __post_init__(self) -> None:
        _counts(self, "drift", "rows", "min_rows", "consecutive")
        _shares(self, "drift", "alpha", "effect", "fault", "separation")
        _durations(self, "drift", "age")
        _within_window(self, "drift")


@_former_arguments(harm="loss_increase")
@dataclass(frozen=True)
class Decay:
    """When a drop in live performance is an alarm.

    Labelled rows are checked in two ways: each monitoring window's metric against the metric on
    held-out rows, and every row's loss by a sequential detector. Either can raise the alarm.

    Args:
        metric: The windows' metric; None takes the gate's.
        rows: Labelled predictions in a monitoring window.
        age: A check also runs after this long, on the labels that have arrived; None waits for
            `rows`.
        min_rows: A window with fewer labelled rows gets no verdict.
        alpha: Probability that one check calls an unchanged model degraded.
        tolerance: Loss of performance against held-out rows that is accepted, in units of the
            metric.
        loss_increase: Increase of the mean loss that the sequential detector should find; None
            takes 0.1 (ten more wrong answers in a hundred) for classifiers and a quarter of the
            usual absolute error for regressors.
        rows_between_alarms: Labelled rows between two false alarms of the detector, on average at
            least.
        estimate: Whether to estimate a classifier's accuracy from its confidences where there are
            no labels.
        consecutive: Number of consecutive checks in which the window's metric, or the estimate,
            must be worse before it is an alarm. The sequential detector needs one.

    Raises:
        ProjectError: A value is out of range.
    """

    metric: str | None = None
    rows: int = 500
    age: Duration | None = "1d"
    min_rows: int = 50
    alpha: float = 0.005
    tolerance: float = 0.0
    loss_increase: float | None = None
    rows_between_alarms: int = 100_000
    estimate: bool = True
    consecutive: int = 2

    def __post_init__(self) -> None:
        _counts(self, "decay", "rows", "min_rows", "consecutive", "rows_between_alarms")
        _shares(self, "decay", "alpha")
        _amounts(self, "decay", "tolerance", "loss_increase")
        _durations(self, "decay", "age")
        _within_window(self, "decay")


@dataclass(frozen=True)
class Retraining:
    """What causes a retraining, and how often at most.

    Args:
        on: The causes that retrain: any of drift, decay, estimate, schedule, labels. A manual
            trigger always does.
        report: Alarms that open a trigger without retraining.
        schedule: Retrain this long after the last retraining; needs "schedule" in `on`.
        new_labels: Retrain after this many new labels; needs "labels" in `on`.
        cooldown: Shortest time between two automatic retrainings.
        clear_after: Number of consecutive checks without a finding after which an alarm is over. It
            does not fire again before.
        again_after: An alarm that is not over fires again after this many new labels, because there
            is more to learn from; None waits until it is over.

    Raises:
        ProjectError: A value is out of range, or only one of `schedule` and "schedule", or of
            `new_labels` and "labels", is given.
    """

    on: tuple[Cause, ...] = ("decay", "estimate")
    report: tuple[Cause, ...] = ("drift",)
    schedule: Duration | None = None
    new_labels: int | None = None
    cooldown: Duration = "10m"
    clear_after: int = 1
    again_after: int | None = 2000

    def __post_init__(self) -> None:
        _causes(self.on, "on")
        _causes(self.report, "report")
        _counts(self, "retrain", "new_labels", "clear_after", "again_after")
        _durations(self, "retrain", "schedule", "cooldown", zero=("cooldown",))
        for cause, name in (("schedule", "schedule"), ("labels", "new_labels")):
            if (cause in self.on) != (getattr(self, name) is not None):
                raise ProjectError(
                    f"Retraining on '{cause}' and `{name}` go together; only one is given.",
                    field=name,
                    expected=f'on=(..., "{cause}") and {name}=..., or neither',
                )


@_former_arguments("windows", "half_life", "growth_limit", spar="staleness_check")
@dataclass(frozen=True)
class Contest:
    """What a retraining learns from, and how its models compete with the champion.

    Args:
        challengers: How many of the new models compete: those that are best on the newest rows.
        archived: How many former champions compete as well, newest first.
        wait: A retraining because of a change waits for this many labelled rows since the change.
        alpha: Probability that a challenger wins that is no better than the champion.
        fewest: No decision before this many labelled rows; more where the champion's losses are
            autocorrelated, at most half of `rows`.
        rows: The contest ends after this many labelled rows without a winner, or after half of them
            if no challenger is ahead; the champion stays.
        age: The contest also ends after this long.
        probation: The former champion keeps competing for this many labelled rows after the
            contest, and returns as soon as it is shown to be better; None does without.
        growth: After a retraining because of a change, or one that a training window of newest rows
            won, the model is retrained once this many times as many labelled rows are there as it
            was trained on; None never does that.
        staleness_check: Whether to compare the champion, each time as many labels have arrived as
            it was trained on, with a model of its kind trained on as many but newer rows, and to
            retrain if that model is clearly better.

    Raises:
        ProjectError: A value is out of range.
    """

    challengers: int = 3
    archived: int = 3
    wait: int = 150
    alpha: float = 0.05
    fewest: int = 100
    rows: int = 1_000
    age: Duration | None = "7d"
    probation: int | None = 2_000
    growth: float | None = 3.0
    staleness_check: bool = True

    def __post_init__(self) -> None:
        _counts(self, "contest", "challengers", "wait", "fewest", "rows", "probation")
        _shares(self, "contest", "alpha")
        _durations(self, "contest", "age")
        if not (isinstance(self.archived, int) and self.archived >= 0):
            raise _wrong("contest", "archived", self.archived, "a whole number, 0 or more")
        if self.fewest > self.rows:
            raise _wrong("contest", "fewest", self.fewest, f"at most rows, which is {self.rows}")
        if self.growth is not None and not (_number(self.growth) and 1 < self.growth < math.inf):
            raise _wrong("contest", "growth", self.growth, "more than 1, or None")


@dataclass(frozen=True)
class Challenge:
    """When a canary is taken out of the traffic automatically.

    Args:
        min_rows: No verdict on latency before both versions have answered this many requests.
        max_latency: Largest accepted ratio of its p95 latency to the champion's.
        tolerance: How much higher its mean live loss may be, beyond chance: in shares of wrong
            answers, or units of the absolute error.

    Raises:
        ProjectError: A value is out of range.
    """

    min_rows: int = 200
    max_latency: float = 2.0
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        _counts(self, "challenge", "min_rows")
        _amounts(self, "challenge", "tolerance")
        if not self.max_latency >= 1:
            raise ProjectError(
                f"max_latency is {self.max_latency}.", field="max_latency", expected="1 or more"
            )


def seconds(value: Duration, field: str = "duration") -> float:
    """Convert a duration to seconds.

    Raises:
        ProjectError: It is not a number, negative, infinite, or has an unknown unit.
    """
    number: Any = value
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", value.strip())
        number = float(match[1]) * UNITS[match[2]] if match else None
    good = isinstance(number, int | float) and not isinstance(number, bool)
    if not good or not math.isfinite(number) or number < 0:
        raise ProjectError(
            f"{field} is {value!r}, which is not a duration.",
            field=field,
            expected="seconds, or a text such as 90s, 30m, 12h or 7d",
        )
    return float(number)


def _counts(policy: Any, owner: str, *names: str) -> None:
    for name in names:
        value = getattr(policy, name)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and value >= 1):
            raise _wrong(owner, name, value, "a whole number, 1 or more")


def _shares(policy: Any, owner: str, *names: str) -> None:
    for name in names:
        value = getattr(policy, name)
        if not (_number(value) and 0 < value < 1):
            raise _wrong(owner, name, value, "between 0 and 1")


def _amounts(policy: Any, owner: str, *names: str) -> None:
    for name in names:
        value = getattr(policy, name)
        if value is not None and not (_number(value) and 0 <= value < math.inf):
            raise _wrong(owner, name, value, "0 or more")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _durations(policy: Any, owner: str, *names: str, zero: tuple[str, ...] = ()) -> None:
    for name in names:
        value = getattr(policy, name)
        if value is not None and seconds(value, name) == 0 and name not in zero:
            raise _wrong(owner, name, value, "more than 0 seconds")


def _within_window(policy: Drift | Decay, owner: str) -> None:
    if policy.min_rows > policy.rows:
        raise _wrong(owner, "min_rows", policy.min_rows, f"at most rows, which is {policy.rows}")


def _causes(causes: Any, name: str) -> None:
    allowed = CHECKED_CAUSES if name == "report" else tuple(c for c in CAUSES if c != "manual")
    if isinstance(causes, str) or not set(causes) <= set(allowed):
        raise _wrong("retrain", name, causes, f"a tuple of some of {', '.join(allowed)}")


def _wrong(owner: str, name: str, value: Any, expected: str) -> ProjectError:
    return ProjectError(f"The {owner} policy's {name} is {value!r}.", field=name, expected=expected)
