"""A contest: challengers against the champion on the same labelled rows, until one has won.

Every row is a bet on each challenger. With d the champion's loss less the challenger's, between -1
and 1, the wealth of a bettor who stakes s of it on every row, the product of (1 + s * d), cannot be
expected to grow when the challenger is no better. By Ville's inequality it then ever reaches
1 / alpha with a probability of at most alpha, however often one looks and whenever one stops. The
best stake is not known beforehand, so wealth is divided over several. Among K challengers each has
to reach K / alpha.

So evidence is collected for as long as it takes: no number of rows is set in advance, and looking
after each batch costs nothing. Ties leave wealth as it is: an equal challenger never wins.

Sources: Ville, "Étude critique de la notion de collectif" (1939); Waudby-Smith & Ramdas,
"Estimating means of bounded random variables by betting", JRSS B 86 (2024) 1.
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


#: What the version that the champion replaced is called.
FORMER_CHAMPION = "the former champion"

#: So many losses before a contest tell how long spells last, and no fewer than the other number.
PRIOR_ROWS, FEWEST_BEFORE = 1000, 200


class Contestant(msgspec.Struct, frozen=True):
    """One challenger: its mean loss, and the log of the evidence that it is better, or worse.

    Evidence is the largest wealth so far; it is enough from the decision's `bar` on.
    """

    name: str
    loss: float
    better: float
    worse: float


class ContestDecision(msgspec.Struct, frozen=True):
    """What a contest has come to after `rows` rows.

    `state` is `won` (by `winner`), `kept` (the champion stays) or `open`.
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
    """The first decision that the rows, in the order in which their labels came, lead to.

    It is that of a contest watched row by row: later rows do not change it, and it does not matter
    in which batches they came. A challenger wins when its wealth reaches the bar; of several that
    do so on the same row, the one with the smallest loss. The champion stays when every challenger
    has been found worse, when none is ahead after half of `policy.rows` rows, or after all of them.

    Args:
        champion: Its loss on each row [rows], 0 to 1.
        challengers: By name, their losses on the same rows.
        policy: How much evidence is needed.
        memory: How long spells lasted before, see `prior_autocorrelation_time`.
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
    seen = min(stop + 1, limit)
    found = tuple(
        Contestant(
            name,
            _mean(challengers[name][:seen]),
            float(better[place, :seen].max(initial=0.0)),
            float(worse[place, :seen].max(initial=0.0)),
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
    loss = _mean(champion[:seen])
    reason = _sentence(state, winner, found, loss, seen, all_worse=lost == stop < limit)
    return ContestDecision(state, seen, bar, loss, found, reason, winner.name if winner else None)


def decide_probation(
    champion: Floats, former: Floats, policy: Contest, *, tau: float = 1.0
) -> ContestDecision:
    """Whether the champion that was beaten is the better one after all, on rows since then.

    Rows that decide a contest come from a few days, and what was right then need not be right
    later. So the contest goes on with parts exchanged, under the same rules, for
    `policy.probation` rows.

    Args:
        champion: Losses of the winner on the rows after the contest [rows], 0 to 1.
        former: Those of the version that it replaced, on the same rows.
        policy: How much evidence is needed; its `probation` is a number.
        memory: How long spells lasted before, through the change that the contest was about
            (`tidemill.steps.decay.check.robust_autocorrelation_time`).
    """
    rows = policy.probation or policy.rows
    asked = replace(policy, rows=rows, fewest=min(policy.fewest, rows))
    return decide_contest(champion, {FORMER_CHAMPION: former}, asked, tau=tau)


def min_rows_to_decide(champion: Floats, policy: Contest, tau: float = 1.0) -> int:
    """Before so many rows nothing is decided: `policy.fewest`, or more where losses come in spells.

    What is right for one spell may be wrong for the next. So rows are waited for, up to half of
    the contest, until they say as much as half of `fewest` independent rows would.

    Args:
        champion: Its losses [rows] in order; what the first rows say holds, however many follow.
        memory: How many rows said as much as one independent row before.
    """
    rows, step = policy.fewest, max(policy.fewest // 2, 1)
    while rows < policy.rows // 2 and rows <= len(champion):
        if rows >= max(tau, autocorrelation_time(champion[:rows])) * policy.fewest / 2:
            break
        rows += step
    return rows


def prior_autocorrelation_time(losses: Floats) -> float:
    """How many rows said as much as one independent row, from losses before anything changed.

    The spells of few rows are not known: 1 for fewer than 200.
    """
    return autocorrelation_time(losses) if len(losses) >= FEWEST_BEFORE else 1.0


def log_wealth(gains: Floats) -> Floats:
    """The log of the wealth after each row [challengers, rows], from gains in -1 to 1."""
    stakes = np.array(STAKES)[:, None, None]
    paths = np.cumsum(np.log1p(stakes * gains[None]), axis=2)
    return np.asarray(np.logaddexp.reduce(paths, axis=0) - math.log(len(STAKES)))


def bounded_losses(
    task: Task, y: NDArray[Any], predicted: NDArray[Any], *, scale: float = 1.0
) -> Floats:
    """Each row's loss [rows] in 0 to 1.

    1 for a wrong label; for a number, the absolute error as a share of `scale`, at most 1, so that
    no single row decides.
    """
    if task == "classification":
        return np.asarray(np.asarray(y) != np.asarray(predicted), dtype=np.float64)
    errors = np.abs(np.asarray(y, dtype=np.float64) - np.asarray(predicted, dtype=np.float64))
    return np.asarray(np.minimum(errors / scale, 1.0))


def error_scale(errors: NDArray[Any]) -> float:
    """What counts as the largest error, from absolute errors [rows]: four times the usual one."""
    usual = float(np.mean(errors) + np.std(errors)) if len(errors) else 0.0
    return 4 * usual if usual > 0 else 1.0


def _first(reached: NDArray[np.bool_], fewest: int) -> int:
    """The first row, `fewest` seen, at which it is so; the number of rows if none."""
    late = reached.copy()
    late[: fewest - 1] = False
    return int(np.argmax(late)) if late.any() else len(late)


def _halfway(gains: Floats, policy: Contest) -> int:
    """The row in the middle of the contest, if no challenger is ahead there; else no row."""
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
        return "There was no challenger to compare with."
    best = min(found, key=lambda c: c.loss)
    against = f"the best challenger, {best.name}, has a mean loss of {best.loss:.4g} against "
    against += f"{champion:.4g} on {rows:,} labelled rows"
    if state == "open":
        return f"Not decided yet: {against}."
    why = "every challenger is worse" if all_worse else "none was proven better in time"
    return f"The champion stays, because {why}: {against}."
