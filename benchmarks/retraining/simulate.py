"""Simulate a policy on a labelled stream: predict, receive labels later, decide, retrain.

The decisions are made by `tidemill.steps`, the models are plain scikit-learn; neither HTTP nor
MLflow is used.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from tidemill.metrics import row_metric
from tidemill.policies import Contest, Decay, Retraining
from tidemill.steps.decay.autocorrelation import AUTOCORRELATION_ROWS, robust_autocorrelation_time
from tidemill.steps.decay.check import check_decay
from tidemill.steps.decay.holdout import Holdout, LossStatistics, measure_holdout, row_losses
from tidemill.steps.decay.loss_detector import loss_detector, retained_champion_detector
from tidemill.steps.retraining.contest import (
    PRIOR_ROWS,
    bounded_losses,
    decide_contest,
    decide_probation,
    error_scale,
    prior_autocorrelation_time,
)
from tidemill.steps.retraining.staleness import (
    MAX_TRAINING_ROWS,
    MAX_TRAINING_ROWS_AFTER_KEPT,
    is_outdated,
)
from tidemill.steps.retraining.training_windows import (
    TrainingWindow,
    held_out_rows,
    training_windows,
    window_size,
)
from tidemill.steps.retraining.trigger_policy import (
    PolicyState,
    Signal,
    TriggerContext,
    decide_triggers,
)

#: How the new champion is selected: in a contest; as the best on held-out rows, the champion
#: included; or as the best on held-out rows of those that are not champion.
Select = Literal["contest", "gate", "best challenger"]

#: Where autocorrelation of losses raises a threshold or delays a decision.
Widened = Literal["contest", "detector"]


@dataclass(frozen=True)
class Stream:
    name: str
    task: str
    X: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Setting:
    warmup: int = 2000
    batch: int = 100
    delay: int = 200
    every: int = 1000  # rows between retrainings of a fixed schedule


@dataclass(frozen=True)
class Policy:
    name: str = "loop"
    loss_increase: float | None = None  # None: the product's default
    contest: Contest = field(default_factory=Contest)
    since: bool = True
    newest: bool = True
    between: int = 100_000
    # The product uses all of these; the ablation study switches them off.
    again_after: int | None = Retraining().again_after
    select: Select = "contest"
    detector: bool = True
    checks: bool = True
    accept: bool = True
    widen: frozenset[Widened] = frozenset(get_args(Widened))

    @property
    def decay(self) -> Decay:
        return Decay(loss_increase=self.loss_increase, rows_between_alarms=self.between)

    def tau(self, where: Widened, estimated: float) -> float:
        """The autocorrelation time of losses in rows; 1 where it is switched off."""
        return estimated if where in self.widen else 1.0


@dataclass
class Model:
    learner: Any
    window: str
    cut: int  # first row after its training rows
    rows: int
    held: slice  # its held-out rows


@dataclass
class SimulatedRun:
    policy: str
    losses: np.ndarray
    retrainings: list[tuple[int, str]] = field(default_factory=list)
    swaps: list[tuple[int, str]] = field(default_factory=list)
    fits: int = 0
    seconds: float = 0.0


def learners(task: str, seed: int) -> dict[str, Any]:
    if task == "classification":
        return {
            "tree": DecisionTreeClassifier(max_depth=10, min_samples_leaf=5, random_state=seed),
            "linear": make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)),
        }
    return {
        "tree": DecisionTreeRegressor(max_depth=10, min_samples_leaf=5, random_state=seed),
        "linear": make_pipeline(StandardScaler(), Ridge()),
    }


class Sim:
    def __init__(self, stream: Stream, setting: Setting, seed: int = 0) -> None:
        self.s, self.set, self.seed = stream, setting, seed
        self.fits = 0
        end = setting.warmup
        self.hold = slice(end - end // 5, end)
        self.first = self.train([TrainingWindow("all", 0, self.hold.start)], end)[0][1]

    def fit(self, learner: Any, w: TrainingWindow) -> Any:
        rows = w.rows()
        if self.s.task == "classification" and len(np.unique(self.s.y[rows])) < 2:
            return None
        self.fits += 1
        return learner.fit(self.s.X[rows], self.s.y[rows])

    def answers(self, model: Model, rows: slice) -> np.ndarray:
        return model.learner.predict(self.s.X[rows])

    def loss(self, rows: slice, model: Model, scale: float) -> np.ndarray:
        return bounded_losses(self.s.task, self.s.y[rows], self.answers(model, rows), scale=scale)

    def raw(self, rows: slice, model: Model) -> np.ndarray:
        return row_losses(self.s.task, self.s.y[rows], self.answers(model, rows))

    def holdout(self, model: Model) -> Holdout:
        """Measure the model on its held-out rows."""
        rows = model.held
        return measure_holdout(self.s.task, self.s.y[rows], self.answers(model, rows))

    def degraded(self, model: Model, holdout: Holdout, rows: slice) -> bool:
        """Return whether the metric of a window is worse than the held-out one."""
        metric = row_metric(self.s.task)
        report = check_decay(
            holdout.metrics[metric],
            self.s.y[rows],
            self.answers(model, rows),
            metric=metric,
            policy=Decay(),
        )
        return report.degraded

    def train(self, windows: list[TrainingWindow], end: int) -> list[tuple[float, Model]]:
        """Train on each window, keep the better candidate on held-out rows; best window first."""
        found = []
        for w in windows:
            best: tuple[float, Model] | None = None
            for learner in learners(self.s.task, self.seed).values():
                fitted = self.fit(learner, w)
                if fitted is None:
                    continue
                model = Model(fitted, w.name, w.end, w.end - w.start, slice(w.end, end))
                loss = float(self.raw(model.held, model).mean())
                if best is None or loss < best[0]:
                    best = (loss, model)
            if best is not None:
                found.append(best)
        return sorted(found, key=lambda r: r[0])


def static(sim: Sim) -> SimulatedRun:
    a = slice(sim.set.warmup, len(sim.s.y))
    return SimulatedRun("static", sim.raw(a, sim.first))


def schedule(sim: Sim, last: int | None = None, every: int | None = None) -> SimulatedRun:
    s, st = sim.s, sim.set
    every = every or st.every
    played = SimulatedRun(f"schedule-{last or 'all'}", np.empty(0))
    model, parts, due = sim.first, [], st.warmup + every
    for begin in range(st.warmup, len(s.y), st.batch):
        rows = slice(begin, min(begin + st.batch, len(s.y)))
        parts.append(sim.raw(rows, model))
        known = max(rows.stop - st.delay, st.warmup)
        if rows.stop >= due:
            due += every
            start = 0 if last is None else max(known - last, 0)
            w = TrainingWindow("all", start, known - min(500, (known - start) // 5))
            model = sim.train([w], known)[0][1]
            # as a simple script would: refit the better candidate on all known rows
            model.learner = sim.fit(model.learner, replace(w, end=known)) or model.learner
            played.retrainings.append((rows.stop, w.name))
    played.losses = np.concatenate(parts)
    return played


@dataclass
class State:
    model: Model
    since: int  # first live row of the champion
    detector: Any
    holdout: Holdout
    alarms: PolicyState
    change: int | None = None  # first row of the current regime
    due: int | None = None  # rows since the change at which to retrain
    more: int | None = None  # the row at which to retrain after a window of the newest rows won
    contest: tuple[int, dict[str, Model], str, float] | None = None
    #: The previous champion, the first row of its probation, and the scale of errors.
    replaced: tuple[Model, int, float] | None = None
    asked: int | None = None  # when a retraining was last proposed
    waiting: bool = False  # for more rows after the change
    kept: int = 0
    archive: list[Model] = field(default_factory=list)
    fed: int = 0
    judged: int = 0  # end of the last checked window
    served: list[np.ndarray] = field(default_factory=list)  # losses of the serving champions
    probed: dict[int, int] = field(default_factory=dict)

    def lately(self, sim: Sim, known: int, rows: int) -> np.ndarray:
        """Return the newest losses with known labels, across champions."""
        if not self.served:
            return np.zeros(0)
        return np.concatenate(self.served)[: known - sim.set.warmup][-rows:]


def loop(sim: Sim, p: Policy) -> SimulatedRun:
    s, st = sim.s, sim.set
    played = SimulatedRun(p.name, np.empty(0))
    nothing = Holdout(s.task, 0, {}, LossStatistics(0.0, 0.0))
    state = State(sim.first, st.warmup, None, nothing, PolicyState("", 0.0))
    set_champion(sim, p, state, sim.first, st.warmup, st.warmup)
    for begin in range(st.warmup, len(s.y), st.batch):
        rows = slice(begin, min(begin + st.batch, len(s.y)))
        state.served.append(sim.raw(rows, state.model))
        known = max(rows.stop - st.delay, st.warmup)
        if state.contest is not None:
            settle(sim, p, state, played, known, rows.stop)
        cause = watch(sim, p, state, known)
        if state.contest is None and not state.waiting and cause is None:
            cause = follow_up(sim, p, state, known)
            if cause is None:
                check_probation(sim, p, state, played, known, rows.stop)
        if cause is not None:
            retrain(sim, p, state, played, known, rows.stop, cause)
    played.losses = np.concatenate(state.served)
    return played


def set_champion(sim: Sim, p: Policy, state: State, model: Model, known: int, now: int) -> None:
    """Make a model the champion, starting at row `now`."""
    state.holdout = sim.holdout(model)
    state.detector = loss_detector(
        state.holdout,
        p.decay,
        tau=p.tau(
            "detector", robust_autocorrelation_time(state.lately(sim, known, AUTOCORRELATION_ROWS))
        ),
    )
    state.alarms = PolicyState(str(id(model)), float(now))
    state.model, state.since, state.fed, state.judged, state.kept = model, now, now, now, 0


def watch(sim: Sim, p: Policy, state: State, known: int) -> str | None:
    """Check the newest labels with the product's alarms; return the cause of a retraining."""
    signals = [*sequential(sim, p, state, known), *windows(sim, p, state, known)]
    began = state.since + state.detector.run_start if p.detector else known
    if state.detector.alarm:
        state.detector.reset()
    facts = TriggerContext(
        float(known),
        None if state.asked is None else float(state.asked),
        known - max(state.since, state.asked or 0),
        active="it" if state.contest is not None or state.waiting else None,
    )
    policy = Retraining(cooldown=0, again_after=p.again_after)
    found = decide_triggers(policy, state.alarms, signals, facts)
    state.alarms = found.state
    if any(firing.retrains for firing in found.proposals):
        state.asked, state.waiting = known, True
        state.change = began if began < known else None
    if not state.waiting:
        return None
    if state.change is not None and known - state.change < p.contest.wait:
        return None
    state.waiting = False
    return "decay"


def sequential(sim: Sim, p: Policy, state: State, known: int) -> list[Signal]:
    """Update the detector with the new labels."""
    begin = max(state.fed, state.since)
    if known <= begin or not p.detector:
        return []
    rows = slice(begin, known)
    state.detector.update(sim.raw(rows, state.model))
    state.fed = known
    new = p.accept and state.kept > 0
    return [Signal("decay", True, "run", new_evidence=new)] if state.detector.alarm else []


def windows(sim: Sim, p: Policy, state: State, known: int) -> list[Signal]:
    """Compare the live metric of a window with the held-out one."""
    decay, metric = Decay(), row_metric(sim.s.task)
    if not p.checks:
        return []
    if known - state.judged < decay.rows or metric not in state.holdout.metrics:
        return []
    rows = slice(known - decay.rows, known)
    state.judged = known
    if state.detector.alarm:  # already reported by the detector
        return []
    degraded = sim.degraded(state.model, state.holdout, rows)
    return [Signal("decay", degraded, "window", decay.consecutive)]


def follow_up(sim: Sim, p: Policy, state: State, known: int) -> str | None:
    """Return "growth" if there are enough new rows, "stale" if newer rows give a better model."""
    if state.due is not None and state.change is not None and known - state.change >= state.due:
        return "growth"
    if state.more is not None and known >= state.more:
        state.change = None
        return "growth"
    most = MAX_TRAINING_ROWS_AFTER_KEPT if state.kept else MAX_TRAINING_ROWS
    return "stale" if p.contest.staleness_check and stale(sim, p, state, known, most) else None


def stale(sim: Sim, p: Policy, state: State, known: int, most: int) -> bool:
    """Return whether a model trained on equally many, newer rows is better on the newest rows."""
    size = min(state.model.rows, most)
    judged = size // 2
    if known - max(state.probed.get(most, 0), state.model.cut, state.since) < size:
        return False
    if known - judged - size < 0 or known - judged < max(state.model.cut, state.since):
        return False
    state.probed[most] = known
    w = TrainingWindow("staleness", known - judged - size, known - judged)
    learner = sim.fit(clone(state.model.learner), w)
    if learner is None:
        return False
    rows, before = slice(known - judged, known), slice(known - judged - 500, known - judged)
    scale = error_scale(sim.raw(before, state.model))
    losses = bounded_losses(sim.s.task, sim.s.y[rows], learner.predict(sim.s.X[rows]), scale=scale)
    found = is_outdated(sim.loss(rows, state.model, scale), losses, p.contest)
    if found:
        state.change = None
    return found


def retrain(
    sim: Sim, p: Policy, state: State, played: SimulatedRun, known: int, now: int, cause: str
) -> None:
    new = known - state.change if state.change is not None else known
    cut = known - held_out_rows(new)
    since = state.change if p.since and state.change is not None and state.change < cut else None
    windows = training_windows(cut, since=since)
    windows = tuple(w for w in windows if p.newest or window_size(w.name) is None)
    found = sim.train(list(windows), known)[: p.contest.challengers]
    contestants = {m.window: m for _, m in found}
    former = [m for m in state.archive if m is not state.model]
    for i, m in enumerate(former[-p.contest.archived :] if p.contest.archived else []):
        contestants[f"archived-{i}"] = m
    played.retrainings.append((now, cause))
    state.detector.reset()
    state.replaced, state.asked = None, known
    before = slice(max(cut - 500, state.change or 0, 0), cut)
    scale = error_scale(sim.raw(before, state.model))
    state.contest = (cut, contestants, cause, scale)
    if p.select == "contest":
        settle(sim, p, state, played, known, now)
    else:
        select(sim, p, state, played, known, now)


def select(sim: Sim, p: Policy, state: State, played: SimulatedRun, known: int, now: int) -> None:
    """Promote the model with the smallest held-out loss at once, without a contest."""
    assert state.contest is not None
    cut, contestants, _, scale = state.contest
    rows = slice(cut, known)
    losses = {n: float(sim.loss(rows, m, scale).mean()) for n, m in contestants.items()}
    best = min(losses, key=losses.__getitem__, default=None)
    bound = float(sim.loss(rows, state.model, scale).mean()) if p.select == "gate" else np.inf
    if best is None or losses[best] >= bound:
        keep(sim, p, state, played, known, now, known - cut)
    else:
        promote(sim, p, state, played, known, now, best, known - cut)


def earlier(sim: Sim, state: State, cut: int) -> np.ndarray:
    """Return the champion's losses before the change."""
    end = cut if state.change is None else min(state.change, cut)
    rows = slice(max(state.since, end - PRIOR_ROWS), max(state.since, end))
    return sim.raw(rows, state.model) if rows.stop > rows.start else np.zeros(0)


def settle(sim: Sim, p: Policy, state: State, played: SimulatedRun, known: int, now: int) -> None:
    assert state.contest is not None
    cut, contestants, _, scale = state.contest
    rows = slice(cut, known)
    d = decide_contest(
        sim.loss(rows, state.model, scale),
        {n: sim.loss(rows, m, scale) for n, m in contestants.items()},
        p.contest,
        tau=p.tau("contest", prior_autocorrelation_time(earlier(sim, state, cut))),
    )
    if d.state == "kept":
        keep(sim, p, state, played, known, now, d.rows)
    elif d.state == "won":
        promote(sim, p, state, played, known, now, str(d.winner), d.rows)


def keep(
    sim: Sim, p: Policy, state: State, played: SimulatedRun, known: int, now: int, seen: int
) -> None:
    """Keep the champion after `seen` rows of the contest."""
    assert state.contest is not None
    cut, _, cause, _ = state.contest
    played.swaps.append((now, f"kept ({cause}, {seen})"))
    state.contest = state.due = state.more = None
    state.kept += 1
    state.detector.reset()
    if not p.accept:
        return
    before = sim.raw(slice(cut, known), state.model)[: max(seen, 1)]
    state.detector = retained_champion_detector(state.detector, sim.s.task, before, p.decay)


def promote(
    sim: Sim,
    p: Policy,
    state: State,
    played: SimulatedRun,
    known: int,
    now: int,
    name: str,
    seen: int,
) -> None:
    """Promote a challenger after `seen` rows of the contest."""
    assert state.contest is not None
    cut, contestants, cause, scale = state.contest
    winner, state.contest = contestants[name], None
    played.swaps.append((now, f"{name} ({cause}, {seen})"))
    state.replaced = (state.model, known, scale)
    promote_model(sim, p, state, winner, known, now)
    growth, state.due, state.more = p.contest.growth, None, None
    if growth is not None and state.change is not None:
        state.due = round((known - state.change) * growth)
    elif growth is not None:
        few = window_size(winner.window)
        state.more = None if few is None else cut + round((growth - 1) * few)


def promote_model(sim: Sim, p: Policy, state: State, winner: Model, known: int, now: int) -> None:
    if state.model not in state.archive:
        state.archive.append(state.model)
    set_champion(sim, p, state, winner, known, now)


def check_probation(
    sim: Sim, p: Policy, state: State, played: SimulatedRun, known: int, now: int
) -> None:
    """Restore the previous champion if it has been better since it was replaced."""
    if state.replaced is None or p.contest.probation is None:
        return
    former, cut, scale = state.replaced
    rows = slice(cut, min(known, cut + p.contest.probation))
    if rows.stop - rows.start < p.contest.fewest:
        return
    tau = p.tau(
        "contest", robust_autocorrelation_time(state.lately(sim, cut, AUTOCORRELATION_ROWS))
    )
    d = decide_probation(
        sim.loss(rows, state.model, scale), sim.loss(rows, former, scale), p.contest, tau=tau
    )
    if d.state == "open":
        return
    state.replaced = None
    if d.state == "won":
        played.swaps.append((now, f"returned (probation, {d.rows})"))
        promote_model(sim, p, state, former, known, now)
