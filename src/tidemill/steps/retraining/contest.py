"""Contests: a sequential test of challengers against the champion on the same labelled rows.

The test is one by betting. With d the champion's loss minus the challenger's, between -1 and 1, the
wealth of a bettor who stakes a share s of it on every row is the product of (1 + s * d). If the
challenger is no better, wealth is not expected to grow, and by Ville's inequality the probability
that it ever reaches 1 / alpha is at most alpha, however often it is evaluated and whenever the test
stops. The best stake is unknown, so wealth is divided over several. With K challengers, each has to
reach K / alpha.

The number of rows is not fixed in advance. Ties leave wealth unchanged, so an equal challenger
never wins.

Sources: Ville, "Étude critique de la notion de collectif" (1939); Waudby-Smith & Ramdas,
"Estimating means of bounded random variables by betting", JRSS B 86 (2024) 1.

See decisions 100 and 173.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from tidemill.policies import Contest
from tidemill.project import Task
from tidemill.steps.decay.autocorrelation import autocorrelation_time

Floats = NDArray[np.float64]
ContestState = Literal["won", "kept", "open"]

#: The stakes that wealth is divided over.
STAKES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)

#: Name of the contestant on probation.
FORMER_CHAMPION = "the former champion"

#: Rows before a contest from which the autocorrelation time is estimated, and the fewest.
PRIOR_ROWS, MIN_PRIOR_ROWS = 1000, 200


class Contestant(msgspec.Struct, frozen=True):
    """A challenger's mean loss, and the log evidence that it is better, or worse.

    Log evidence is the log of the largest wealth so far; at the decision's `bar` it suffices.
    """

    name: str
    loss: float
    better: float
    worse: float


class ContestDecision(msgspec.Struct, frozen=True):
    """The decision after `rows` rows.

    `state` is `won` (by `winner`), `kept` (the champion stays) or `open`. `bar` is the log evidence
    that decides.
    """

    state: ContestState
    rows: int
    bar: float
    champion_loss: float
    contestants: tuple[Contestant, ...]
    reason: str
    winner: str | None = None


def decide_contest(
    champion: Floats,
    challengers: Mapping[str, Floats],
    policy: Contest,
    *,
    tau: float = 1.0,
) -> ContestDecision:
    """Return the first decision that the rows lead to, in the order in which labels arrived.

    It is that of a contest evaluated row by row: later rows do not change it, and batches make no
    difference. A challenger wins when its wealth reaches the bar; of several that do so on the same
    row, the one with the smallest loss. The champion stays when every challenger has been shown to
    be worse, when none is ahead after half of `policy.rows` rows, or after all of them.

    Args:
        champion: [rows] its losses, 0 to 1.
        challengers: By name, [rows] their losses on the same rows.
        policy: `alpha`, `rows` and `fewest` are used.
        tau: Autocorrelation time of the champion's losses before, in rows; see
            `prior_autocorrelation_time`.

    Examples:
        >>> champion, challenger = np.full(200, 0.5), np.full(200, 0.2)
        >>> found = decide_contest(champion, {"new": challenger}, Contest())
        >>> found.winner, found.rows
        ('new', 100)
    """
    names, bar = list(challengers), math.log(max(len(challengers), 1) / policy.alpha)
    limit = min(len(champion), policy.rows)
    gains = np.array([(champion - challengers[name])[:limit] for name in names])
    gains = gains.reshape(len(names), limit)
    better, worse = log_wealth(gains), log_wealth(-gains)
    fewest = min_rows_to_decide(champion, policy, tau)
    won = _first(np.asarray((better >= bar).any(axis=0)), fewest)
    beaten = np.maximum.accumulate(worse, axis=1) >= bar
    lost = _first(np.asarray(beaten.all(axis=0)), fewest)
    half = _halfway(gains, policy)
    stop = min(won, lost, half, limit)
    rows = min(stop + 1, limit)
    found = tuple(
        Contestant(
            name,
            _mean(challengers[name][:rows]),
            float(better[place, :rows].max(initial=0.0)),
            float(worse[place, :rows].max(initial=0.0)),
        )
        for place, name in enumerate(names)
    )
    winner = None
    if won < limit and won == stop:
        able = [c for place, c in enumerate(found) if better[place, won] >= bar]
        winner = min(able, key=lambda c: (c.loss, names.index(c.name)))
    state: ContestState = "open"
    if winner is not None:
        state = "won"
    elif stop < limit or limit >= policy.rows or not names:
        state = "kept"
    loss = _mean(champion[:rows])
    reason = _sentence(state, winner, found, loss, rows, all_worse=lost == stop < limit)
    return ContestDecision(state, rows, bar, loss, found, reason, winner.name if winner else None)


def decide_probation(
    champion: Floats, former: Floats, policy: Contest, *, tau: float = 1.0
) -> ContestDecision:
    """Decide whether the former champion is better on the rows since the contest.

    A contest is decided on rows of a few days, and the winner need not be the better model later.
    So it continues with exchanged roles, under the same rules, for `policy.probation` rows.

    Args:
        champion: [rows] losses of the winner on the rows after the contest, 0 to 1.
        former: [rows] losses of the version that it replaced.
        policy: As in `decide_contest`.
        tau: Autocorrelation time before, across the change that led to the contest; see
            `tidemill.steps.decay.autocorrelation.robust_autocorrelation_time`.
    """
    rows = policy.probation or policy.rows
    shortened = replace(policy, rows=rows, fewest=min(policy.fewest, rows))
    return decide_contest(champion, {FORMER_CHAMPION: former}, shortened, tau=tau)


def min_rows_to_decide(champion: Floats, policy: Contest, tau: float = 1.0) -> int:
    """Return the rows before which nothing is decided: `policy.fewest`, or more.

    It is more where losses are autocorrelated: as many, up to half of the contest, as have the
    information of half of `fewest` independent rows.

    Args:
        champion: [rows] its losses in order; more rows do not change the result for earlier ones.
        tau: Autocorrelation time before, in rows.
    """
    rows, step = policy.fewest, max(policy.fewest // 2, 1)
    while rows < policy.rows // 2 and rows <= len(champion):
        if rows >= max(tau, autocorrelation_time(champion[:rows])) * policy.fewest / 2:
            break
        rows += step
    return rows


def prior_autocorrelation_time(losses: Floats) -> float:
    """Estimate the autocorrelation time, in rows, from losses before a change.

    It is 1 for fewer than 200 rows, from which it cannot be estimated.
    """
    return autocorrelation_time(losses) if len(losses) >= MIN_PRIOR_ROWS else 1.0


def log_wealth(gains: Floats) -> Floats:
    """Compute the log wealth after each row [challengers, rows] from gains between -1 and 1."""
    stakes = np.array(STAKES)[:, None, None]
    paths = np.cumsum(np.log1p(stakes * gains[None]), axis=2)
    return np.asarray(np.logaddexp.reduce(paths, axis=0) - math.log(len(STAKES)))


def bounded_losses(
    task: Task, y: NDArray[Any], predicted: NDArray[Any], *, scale: float = 1.0
) -> Floats:
    """Compute each row's loss [rows], 0 to 1.

    It is 1 for a wrong label; for a number, the absolute error divided by `scale`, at most 1, so
    that no single row decides.
    """
    if task == "classification":
        return np.asarray(np.asarray(y) != np.asarray(predicted), dtype=np.float64)
    errors = np.abs(np.asarray(y, dtype=np.float64) - np.asarray(predicted, dtype=np.float64))
    return np.asarray(np.minimum(errors / scale, 1.0))


def error_scale(errors: NDArray[Any]) -> float:
    """Return the error that counts as a loss of 1, from absolute errors [rows].

    It is four times the sum of their mean and standard deviation.
    """
    usual = float(np.mean(errors) + np.std(errors)) if len(errors) else 0.0
    return 4 * usual if usual > 0 else 1.0


def _first(reached: NDArray[np.bool_], fewest: int) -> int:
    """The first row from `fewest` on where `reached` holds; the number of rows if none."""
    late = reached.copy()
    late[: fewest - 1] = False
    return int(np.argmax(late)) if late.any() else len(late)


def _halfway(gains: Floats, policy: Contest) -> int:
    """The middle row of the contest if no challenger is ahead there; else the number of rows."""
    middle = max(policy.rows // 2, policy.fewest)
    rows = int(gains.shape[1])
    if rows < middle or bool((gains[:, :middle].sum(axis=1) > 0).any()):
        return rows
    return middle - 1


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else 0.0


def _sentence(
    state: ContestState,
    winner: Contestant | None,
    found: tuple[Contestant, ...],
    champion: float,
    rows: int,
    *,
    all_worse: bool,
) -> str:
    if winner is not None:
        return (
            f"{winner.name} beat the champion on {rows:,} labelled rows: mean loss "
            f"{winner.loss:.4g} against {champion:.4g}."
        )
    if not found:
        return "There was no challenger."
    best = min(found, key=lambda c: c.loss)
    against = f"the best challenger, {best.name}, has a mean loss of {best.loss:.4g} against "
    against += f"{champion:.4g} on {rows:,} labelled rows"
    if state == "open":
        return f"Not decided yet: {against}."
    why = "every challenger is worse" if all_worse else "none was shown to be better in time"
    return f"The champion stays, because {why}: {against}."
