"""What follows from a check: nothing, a trigger that reports, or one that retrains; and why.

Each thing that can be seen (drift, decay, estimate) has an `Alarm`. It is raised when enough checks
in a row found it, and over when enough in a row did not. A raised alarm leads to one trigger; it
leads to another only after it was over, or, where it stays, after so many new labels that there is
more to learn from. A retraining answers for every alarm that was raised before it ended, so that no
cause is retrained for twice.

Nothing here reads a clock or a table: the same state, signals and facts give the same decision.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tidemill.policies import CAUSES, Cause, Retraining, seconds

#: What counts for more comes first, where several causes retrain at once.
RANK: tuple[Cause, ...] = ("decay", "estimate", "drift", "labels", "schedule")


class Signal(msgspec.Struct, frozen=True):
    """What one check found about one cause; `needs` such checks in a row make an alarm."""

    cause: Cause
    on: bool
    reason: str
    needs: int = 1
    new_evidence: bool = False  # it is about more than the last retraining knew of


class Alarm(msgspec.Struct, frozen=True):
    """The state of one cause.

    `streak` and `calm` count checks in a row that found it and that did not; `episode` counts how
    often it was raised anew; `answered` says that a trigger has answered for this episode.
    """

    streak: int = 0
    calm: int = 0
    raised: bool = False
    episode: int = 0
    answered: bool = False
    reason: str = ""
    new_evidence: bool = False


class PolicyState(msgspec.Struct, frozen=True):
    """What is remembered from check to check, for one version since it became champion.

    `began` is when that was, in seconds since the epoch.
    """

    version: str
    began: float
    alarms: dict[str, Alarm] = {}


class TriggerContext(msgspec.Struct, frozen=True):
    """What else a decision rests on.

    Attributes:
        now: In seconds since the epoch.
        retrained: When the newest trigger that retrains was opened; None when there was none.
        new_labels: How many labels came since then, or since the version became champion.
        active: The trigger whose retraining has not ended.
        open: Causes with a trigger that is not closed.
        kept: How many retrainings in a row found nothing better than this champion.
    """

    now: float
    retrained: float | None = None
    new_labels: int = 0
    active: str | None = None
    open: frozenset[str] = frozenset()
    kept: int = 0


class TriggerProposal(msgspec.Struct, frozen=True):
    """A trigger to be opened. `key` is the same for the same cause, however often it is asked."""

    cause: Cause
    key: str
    retrains: bool
    reason: str


class TriggerDecision(msgspec.Struct, frozen=True):
    """What to do, the state after it, and a sentence for whoever asks why.

    `over` are the causes whose alarm ended with this check.
    """

    state: PolicyState
    why: str
    proposals: tuple[TriggerProposal, ...] = ()
    over: tuple[Cause, ...] = ()


def decide_triggers(
    policy: Retraining, state: PolicyState, signals: Sequence[Signal], facts: TriggerContext
) -> TriggerDecision:
    """What follows from these signals.

    At most one trigger that retrains is opened, and one for each cause that is only reported.
    """
    before = state.alarms
    alarms = dict(before)
    for signal in signals:
        alarms[signal.cause] = _next(alarms.get(signal.cause, Alarm()), signal, policy)
    over = tuple(c for c in CAUSES if _raised(before, c) and not _raised(alarms, c))
    if facts.active is not None:
        alarms = {cause: _answer(alarm) for cause, alarm in alarms.items()}
    else:
        alarms = {c: _again(c, alarm, policy, facts) for c, alarm in alarms.items()}
    firings, why = _fire(policy, state, alarms, facts)
    for firing in firings:
        named = alarms if firing.retrains else {firing.cause: alarms[firing.cause]}
        alarms |= {cause: _answer(alarm) for cause, alarm in named.items()}
    return TriggerDecision(msgspec.structs.replace(state, alarms=alarms), why, firings, over)


def _next(alarm: Alarm, signal: Signal, policy: Retraining) -> Alarm:
    """The alarm after one more check."""
    streak = alarm.streak + 1 if signal.on else 0
    calm = 0 if signal.on else alarm.calm + 1
    seen = msgspec.structs.replace(alarm, streak=streak, calm=calm)
    if (not alarm.raised and streak >= signal.needs) or (signal.on and signal.new_evidence):
        return msgspec.structs.replace(
            seen,
            raised=True,
            answered=False,
            episode=alarm.episode + 1,
            reason=signal.reason,
            new_evidence=signal.new_evidence,
        )
    if alarm.raised and calm >= policy.clear_after:
        return msgspec.structs.replace(seen, raised=False, answered=False, reason="")
    if signal.on:
        return msgspec.structs.replace(seen, reason=signal.reason)
    return seen


def _raised(alarms: dict[str, Alarm], cause: str) -> bool:
    return cause in alarms and alarms[cause].raised


def _answer(alarm: Alarm) -> Alarm:
    return msgspec.structs.replace(alarm, answered=True) if alarm.raised else alarm


def _again(cause: str, alarm: Alarm, policy: Retraining, facts: TriggerContext) -> Alarm:
    """An alarm that stays becomes a new one once there is more to learn from."""
    patience = _patience(policy, facts)
    enough = patience is not None and facts.new_labels >= patience
    if cause in policy.on and alarm.raised and alarm.answered and enough:
        return msgspec.structs.replace(alarm, answered=False, episode=alarm.episode + 1)
    return alarm


def _patience(policy: Retraining, facts: TriggerContext) -> int | None:
    """New labels before what led to nothing is acted on again: each time twice as many."""
    if policy.again_after is None:
        return None
    return policy.again_after << min(max(facts.kept - 1, 0), 5)


def _fire(
    policy: Retraining, state: PolicyState, alarms: dict[str, Alarm], facts: TriggerContext
) -> tuple[tuple[TriggerProposal, ...], str]:
    pending = {c: a for c, a in alarms.items() if a.raised and not a.answered}
    wanted = _wanted(policy, state, pending, facts)
    told = tuple(
        TriggerProposal(c, _key(c, state, str(alarms[c].episode)), False, pending[c].reason)
        for c in RANK
        if c in pending and c in policy.report and c not in policy.on and c not in facts.open
    )
    if not wanted:
        return told, _quiet(alarms, facts, told)
    refusal = _refusal(policy, wanted, alarms, facts)
    if refusal is not None:
        return told, refusal
    chosen = wanted[0]
    others = ", ".join(f.cause for f in wanted[1:])
    why = f"Retrain because of {chosen.cause}: {chosen.reason}"
    return (chosen, *told), f"{why} (also: {others})" if others else why


def _wanted(
    policy: Retraining, state: PolicyState, pending: dict[str, Alarm], facts: TriggerContext
) -> list[TriggerProposal]:
    """The retrainings asked for, what counts for most first."""
    found = [
        TriggerProposal(c, _key(c, state, str(pending[c].episode)), True, pending[c].reason)
        for c in RANK
        if c in pending and c in policy.on
    ]
    last = state.began if facts.retrained is None else max(facts.retrained, state.began)
    if policy.new_labels is not None and facts.new_labels >= policy.new_labels:
        reason = f"{facts.new_labels:,} new labels came; {policy.new_labels:,} are enough."
        found.append(TriggerProposal("labels", _key("labels", state, f"{last:.3f}"), True, reason))
    if policy.schedule is not None and facts.now - last >= seconds(policy.schedule):
        reason = f"It is {_spell(facts.now - last)} since the last time."
        found.append(
            TriggerProposal("schedule", _key("schedule", state, f"{last:.3f}"), True, reason)
        )
    return sorted(found, key=lambda firing: RANK.index(firing.cause))


def _refusal(
    policy: Retraining,
    wanted: list[TriggerProposal],
    alarms: dict[str, Alarm],
    facts: TriggerContext,
) -> str | None:
    """Why what is wanted has to wait."""
    cause = wanted[0].cause
    if facts.active is not None:
        return f"'{cause}' waits: the retraining of trigger {facts.active} has not ended."
    if cause in facts.open:
        return f"'{cause}' has an open trigger already."
    patience = _patience(policy, facts)
    known = all(f.cause in alarms and not alarms[f.cause].new_evidence for f in wanted)
    if facts.kept and known and patience is not None and facts.new_labels < patience:
        return (
            f"'{cause}' waits: the last {facts.kept} retrainings found nothing better; "
            f"{patience - facts.new_labels:,} more labels are needed to try again."
        )
    cooldown = seconds(policy.cooldown)
    if facts.retrained is not None and facts.now - facts.retrained < cooldown:
        left = cooldown - (facts.now - facts.retrained)
        return f"'{cause}' waits: the cool-down after the last retraining ends in {_spell(left)}."
    return None


def _quiet(
    alarms: dict[str, Alarm], facts: TriggerContext, told: tuple[TriggerProposal, ...]
) -> str:
    if told:
        causes = ", ".join(firing.cause for firing in told)
        return f"Reported and not retrained for: {causes}. {told[0].reason}"
    raised = [cause for cause in RANK if _raised(alarms, cause)]
    if raised and facts.active is not None:
        return f"Trigger {facts.active} is being retrained for; it answers for {', '.join(raised)}."
    if raised:
        return f"Nothing new: {', '.join(raised)} was acted on, and is not over."
    growing = [c for c in RANK if c in alarms and alarms[c].streak]
    if growing:
        return f"Not yet: {', '.join(growing)} was found, and has to be found again."
    return "All is well, as far as can be told."


def _key(cause: Cause, state: PolicyState, which: str) -> str:
    return f"{cause}:{state.version}:{state.began:.3f}:{which}"


def _spell(span: float) -> str:
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if span >= 2 * length:
            return f"{span / length:.0f} {unit}"
    return f"{span:.0f} seconds"
