"""What a user writes about watching and retraining: small values that `Project` holds.

    project = Project(
        ...,
        drift=Drift(rows=500, ignore=("Signed Up",)),
        decay=Decay(metric="accuracy", tolerance=0.01),
        retrain=Retraining(on=("decay", "labels"), new_labels=5000, cooldown="6h"),
        challenge=Challenge(max_latency=2.0),
    )

With the defaults, data that moved is reported and nothing more; a model that labels show to be
worse, or whose own confidences say so, is retrained. Durations are seconds, or texts such as
"90s", "30m", "12h", "7d".
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tidemill.errors import ProjectError

#: Why a model may be retrained. `estimate` is decay seen in confidences alone, without labels.
Cause = Literal["drift", "decay", "estimate", "schedule", "labels", "manual"]
CAUSES: tuple[Cause, ...] = get_args(Cause)

#: What watching finds out; the other causes are asked for.
SEEN: tuple[Cause, ...] = ("drift", "decay", "estimate")

Duration = float | int | str
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class Drift:
    """When moved data is an alarm.

    Args:
        rows: How many predictions make a window. A check is due when so many have come since the
            last one, so that windows do not overlap and each row is judged once.
        age: A check is also due after so long, on what has come since; None waits for the rows.
        min_rows: A window of fewer distinct rows gets no verdict.
        alpha: The chance of any alarm in one check of a window in which nothing has changed.
        effect: The smallest share of rows that must have moved. 0.05 is a shift of an eighth of a
            standard deviation.
        fault: The same for missing, never seen and out-of-range values.
        separation: The smallest AUC at which the classifier test counts.
        classifier: Whether to run the classifier test of all features together.
        ignore: Features not to look at (a date, a counter).
        consecutive: How many checks in a row must find it before it is an alarm.
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


@dataclass(frozen=True)
class Decay:
    """When a worse model is an alarm.

    Labelled rows are looked at twice: window by window against the metric on held-out rows, and
    row by row with a sequential detector of losses. Either is an alarm.

    Args:
        metric: The metric of the windows; None takes the gate's.
        rows: How many labelled predictions make a window; `age` and `min_rows` as in `Drift`.
        alpha: The chance of calling an unchanged model hurt in one check.
        tolerance: How much worse than on held-out rows is no harm, in units of the metric.
        harm: The rise of the mean loss that the sequential detector is after; None takes ten wrong
            answers more in a hundred, or errors a quarter larger.
        rows_between_alarms: How many labelled rows, on average at least, between its false alarms.
        estimate: Whether to estimate a classifier's accuracy from its confidences, without labels.
        consecutive: How many checks in a row must find a window, or the estimate, worse before it
            is an alarm. The sequential detector needs no second look.
    """

    metric: str | None = None
    rows: int = 500
    age: Duration | None = "1d"
    min_rows: int = 50
    alpha: float = 0.005
    tolerance: float = 0.0
    harm: float | None = None
    rows_between_alarms: int = 100_000
    estimate: bool = True
    consecutive: int = 2

    def __post_init__(self) -> None:
        _counts(self, "decay", "rows", "min_rows", "consecutive", "rows_between_alarms")
        _shares(self, "decay", "alpha")
        _amounts(self, "decay", "tolerance", "harm")
        _durations(self, "decay", "age")
        _within_window(self, "decay")


@dataclass(frozen=True)
class Retraining:
    """What makes a model be trained again, and how often at most.

    Args:
        on: The causes that retrain: some of drift, decay, estimate, schedule, labels. A trigger by
            hand always does.
        report: Alarms that open a trigger though they do not retrain.
        schedule: Retrain after so long since the last time; takes effect with "schedule" in `on`.
        new_labels: Retrain after so many new labels; takes effect with "labels" in `on`.
        cooldown: No automatic retraining sooner than this after the last.
        clear_after: After how many checks in a row without it an alarm is over. Until then it does
            not fire again.
        again_after: An alarm that is not over fires again after so many new labels, since there is
            more to learn from; None waits until it is over.
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


@dataclass(frozen=True)
class Contest:
    """What a retraining learns from, and how its models compete with the champion.

    Args:
        windows: Sizes of the windows of newest rows that are learned from, beside all rows and
            those since the change.
        half_life: Rows after which an older row counts half, in the window `aged`; None leaves
            that window out.
        challengers: How many of the new models compete; those best on the newest rows.
        archived: How many former champions compete as well, newest first.
        wait: A retraining because of a change waits for so many labelled rows since then.
        alpha: The chance that a challenger that is no better than the champion wins.
        fewest: No winner before so many labelled rows; more where the champion's losses come in
            spells, at most half of `rows`.
        rows: The contest ends after so many labelled rows without a winner, or after half of them
            where no challenger is ahead; the champion stays.
        age: It also ends after so long.
        probation: The beaten champion goes on competing for so many labelled rows after the
            contest, and returns as soon as it is proven better; None lets it go at once.
        growth: After a retraining because of a change, or one that a window of the newest rows
            won, the model is retrained again once there are so many times as many labelled rows as
            it learned from; None never does that.
        growth_limit: No such retraining beyond so many rows.
        spar: Whether to try, each time so many labels came as the champion learned from, if a model
            of its kind from as many but newer rows is clearly better; if so, retrain.
    """

    windows: tuple[int, ...] = (10_000, 5_000, 2_000)
    half_life: int | None = 2_000
    challengers: int = 3
    archived: int = 3
    wait: int = 150
    alpha: float = 0.05
    fewest: int = 100
    rows: int = 1_000
    age: Duration | None = "7d"
    probation: int | None = 2_000
    growth: float | None = 3.0
    growth_limit: int = 10_000
    spar: bool = True

    def __post_init__(self) -> None:
        _counts(
            self, "contest", "half_life", "challengers", "wait", "fewest", "rows", "probation",
            "growth_limit",
        )  # fmt: skip
        _shares(self, "contest", "alpha")
        _durations(self, "contest", "age")
        sizes = self.windows
        if not all(isinstance(n, int) and n >= 1 for n in sizes):
            raise _wrong("contest", "windows", sizes, "whole numbers, 1 or more each")
        if not (isinstance(self.archived, int) and self.archived >= 0):
            raise _wrong("contest", "archived", self.archived, "a whole number, 0 or more")
        if self.fewest > self.rows:
            raise _wrong("contest", "fewest", self.fewest, f"at most rows, which is {self.rows}")
        if self.growth is not None and not (_number(self.growth) and 1 < self.growth < math.inf):
            raise _wrong("contest", "growth", self.growth, "more than 1, or None")


@dataclass(frozen=True)
class Challenge:
    """When a challenger in a canary is taken out of the traffic by itself.

    Args:
        min_rows: Nothing is judged before it gave so many answers.
        max_latency: Its 95th percentile may take so many times as long as the champion's.
        tolerance: How much worse its live metric may be, in units of the metric, beyond what
            chance explains.
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
    """A duration in seconds.

    Raises:
        ProjectError: It is not one: not a number, negative, endless, or of an unknown unit.
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
            raise _wrong(owner, name, value, "more than no time")


def _within_window(policy: Drift | Decay, owner: str) -> None:
    if policy.min_rows > policy.rows:
        raise _wrong(owner, "min_rows", policy.min_rows, f"at most rows, which is {policy.rows}")


def _causes(causes: Any, name: str) -> None:
    allowed = SEEN if name == "report" else tuple(c for c in CAUSES if c != "manual")
    if isinstance(causes, str) or not set(causes) <= set(allowed):
        raise _wrong("retrain", name, causes, f"a tuple of some of {', '.join(allowed)}")


def _wrong(owner: str, name: str, value: Any, expected: str) -> ProjectError:
    return ProjectError(f"The {owner} policy's {name} is {value!r}.", field=name, expected=expected)
