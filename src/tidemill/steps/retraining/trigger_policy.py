"""The trigger policy: what follows from a check, and why.

A check can lead to nothing, to a trigger that only reports, or to one that retrains. Each cause
that checks can find (drift, decay, estimate) has an `Alarm`. It is raised when enough consecutive
checks have found the cause, and over when enough consecutive checks have not. A raised alarm leads
to one trigger, and to another only after it was over or, where it persists, after enough new labels
that there is more to learn from. A retraining answers every alarm that was raised before it ended,
so a cause is not retrained for twice.

The functions read no clock and no table: equal states, signals and contexts give equal decisions.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tidemill.policies import CAUSES, Cause, Retraining, seconds

#: Priority of causes, where several retrain at once.
PRIORITY: tuple[Cause, ...] = ("decay", "estimate", "drift", "labels", "schedule")


class Signal(msgspec.Struct, frozen=True):
    """What one check found about one cause.

    Attributes:
        on: Whether the check found it.
        needs: Number of consecutive checks that must find it to raise the alarm.
        new_evidence: Whether it rests on rows that the last retraining did not have.
    """

    cause: Cause
    on: bool
    reason: str
    needs: int = 1
    new_evidence: bool = False


class Alarm(msgspec.Struct, frozen=True):
    """The state of one cause.

    Attributes:
        streak, calm: Consecutive checks that found the cause, and that did not.
        raised: Whether the alarm is raised.
        episode: How often it was raised.
        answered: Whether a trigger was opened for this episode.
    """

    streak: int = 0
    calm: int = 0
    raised: bool = False
    episode: int = 0
    answered: bool = False
    reason: str = ""


class PolicyState(msgspec.Struct, frozen=True):
    """What is stored between checks, for one version since it became champion at `began`.

    `began` is in seconds since the epoch.
    """

    version: str
    began: float
    alarms: dict[str, Alarm] = {}


class TriggerContext(msgspec.Struct, frozen=True):
    """What else a decision depends on.

    Attributes:
        now: In seconds since the epoch.
        retrained: When the newest trigger that retrains was opened; None where there was none.
        new_labels: Labels since then, or since the version became champion.
        active: The id of the trigger whose retraining has not ended.
        open: Causes with an open trigger.
    """

    now: float
    retrained: float | None = None
    new_labels: int = 0
    active: str | None = None
    open: frozenset[str] = frozenset()


class TriggerProposal(msgspec.Struct, frozen=True):
    """A trigger to open; its `key` is the same however often the same cause is decided on."""

    cause: Cause
    key: str
    retrains: bool
    reason: str


class TriggerDecision(msgspec.Struct, frozen=True):
    """The decision: triggers to open, the state after it, and why.

    `over` are the causes whose alarm ended with this check.
    """

    state: PolicyState
    why: str
    proposals: tuple[TriggerProposal, ...] = ()
    over: tuple[Cause, ...] = ()


def decide_triggers(
    policy: Retraining, state: PolicyState, signals: Sequence[Signal], context: TriggerContext
) -> TriggerDecision:
    """Decide what follows from the signals of a check.

    At most one trigger that retrains is proposed, and one for each cause that is only reported.
    """
    before = state.alarms
    alarms = dict(before)
    for signal in signals:
        alarms[signal.cause] = _next(alarms.get(signal.cause, Alarm()), signal, policy)
    over = tuple(c for c in CAUSES if _is_raised(before, c) and not _is_raised(alarms, c))
    if context.active is not None:
        alarms = {cause: _answered(alarm) for cause, alarm in alarms.items()}
    else:
        alarms = {c: _renewed(c, alarm, policy, context) for c, alarm in alarms.items()}
    proposals, why = _propose(policy, state, alarms, context)
    for proposal in proposals:
        named = alarms if proposal.retrains else {proposal.cause: alarms[proposal.cause]}
        alarms |= {cause: _answered(alarm) for cause, alarm in named.items()}
    return TriggerDecision(msgspec.structs.replace(state, alarms=alarms), why, proposals, over)


def _next(alarm: Alarm, signal: Signal, policy: Retraining) -> Alarm:
    """The alarm after one more check."""
    streak = alarm.streak + 1 if signal.on else 0
    calm = 0 if signal.on else alarm.calm + 1
    counted = msgspec.structs.replace(alarm, streak=streak, calm=calm)
    if (not alarm.raised and streak >= signal.needs) or (signal.on and signal.new_evidence):
        return msgspec.structs.replace(
            counted,
            raised=True,
            answered=False,
            episode=alarm.episode + 1,
            reason=signal.reason,
        )
    if alarm.raised and calm >= policy.clear_after:
        return msgspec.structs.replace(counted, raised=False, answered=False, reason="")
    if signal.on:
        return msgspec.structs.replace(counted, reason=signal.reason)
    return counted


def _is_raised(alarms: dict[str, Alarm], cause: str) -> bool:
    return cause in alarms and alarms[cause].raised


def _answered(alarm: Alarm) -> Alarm:
    return msgspec.structs.replace(alarm, answered=True) if alarm.raised else alarm


def _renewed(cause: str, alarm: Alarm, policy: Retraining, context: TriggerContext) -> Alarm:
    """An alarm that persists becomes a new one once there is more to learn from."""
    needed = policy.again_after
    enough = needed is not None and context.new_labels >= needed
    if cause in policy.on and alarm.raised and alarm.answered and enough:
        return msgspec.structs.replace(alarm, answered=False, episode=alarm.episode + 1)
    return alarm


def _propose(
    policy: Retraining, state: PolicyState, alarms: dict[str, Alarm], context: TriggerContext
) -> tuple[tuple[TriggerProposal, ...], str]:
    """The triggers to open, and why."""
    pending = {c: a for c, a in alarms.items() if a.raised and not a.answered}
    retrainings = _retrainings(policy, state, pending, context)
    reports = tuple(
        TriggerProposal(c, _key(c, state, str(alarms[c].episode)), False, pending[c].reason)
        for c in PRIORITY
        if c in pending and c in policy.report and c not in policy.on and c not in context.open
    )
    if not retrainings:
        return reports, _no_retraining(alarms, context, reports)
    obstacle = _obstacle(policy, retrainings[0].cause, context)
    if obstacle is not None:
        return reports, obstacle
    chosen = retrainings[0]
    others = ", ".join(proposal.cause for proposal in retrainings[1:])
    why = f"Retrain because of {chosen.cause}: {chosen.reason}"
    return (chosen, *reports), f"{why} (also: {others})" if others else why


def _retrainings(
    policy: Retraining, state: PolicyState, pending: dict[str, Alarm], context: TriggerContext
) -> list[TriggerProposal]:
    """Every retraining that has a cause, by priority."""
    found = [
        TriggerProposal(c, _key(c, state, str(pending[c].episode)), True, pending[c].reason)
        for c in PRIORITY
        if c in pending and c in policy.on
    ]
    last = state.began if context.retrained is None else max(context.retrained, state.began)
    if policy.new_labels is not None and context.new_labels >= policy.new_labels:
        reason = f"{context.new_labels:,} new labels have arrived; {policy.new_labels:,} suffice."
        found.append(TriggerProposal("labels", _key("labels", state, f"{last:.3f}"), True, reason))
    if policy.schedule is not None and context.now - last >= seconds(policy.schedule):
        reason = f"The last retraining was {_duration(context.now - last)} ago."
        key = _key("schedule", state, f"{last:.3f}")
        found.append(TriggerProposal("schedule", key, True, reason))
    return sorted(found, key=lambda proposal: PRIORITY.index(proposal.cause))


def _obstacle(policy: Retraining, cause: Cause, context: TriggerContext) -> str | None:
    """Why a retraining for this cause has to wait; None where it need not."""
    if context.active is not None:
        return f"'{cause}' waits: the retraining of trigger {context.active} has not ended."
    if cause in context.open:
        return f"'{cause}' already has an open trigger."
    cooldown = seconds(policy.cooldown)
    if context.retrained is not None and context.now - context.retrained < cooldown:
        left = cooldown - (context.now - context.retrained)
        return f"'{cause}' waits: the cooldown after the last retraining ends in {_duration(left)}."
    return None


def _no_retraining(
    alarms: dict[str, Alarm], context: TriggerContext, reports: tuple[TriggerProposal, ...]
) -> str:
    """Why no retraining is proposed."""
    if reports:
        causes = ", ".join(proposal.cause for proposal in reports)
        return f"Reported without retraining: {causes}. {reports[0].reason}"
    raised = [cause for cause in PRIORITY if _is_raised(alarms, cause)]
    if raised and context.active is not None:
        return f"Trigger {context.active} is being retrained for; it covers {', '.join(raised)}."
    if raised:
        return f"Nothing new: {', '.join(raised)} was acted on, and is not over."
    growing = [c for c in PRIORITY if c in alarms and alarms[c].streak]
    if growing:
        return f"Not yet: {', '.join(growing)} must be found in another check."
    return "No check has found a problem."


def _key(cause: Cause, state: PolicyState, which: str) -> str:
    return f"{cause}:{state.version}:{state.began:.3f}:{which}"


def _duration(span: float) -> str:
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if span >= 2 * length:
            return f"{span / length:.0f} {unit}"
    return f"{span:.0f} seconds"
