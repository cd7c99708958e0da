"""What follows from checks: hysteresis, cooldown, one trigger a cause, and why."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tidemill.policies import Cause, Retraining
from tidemill.steps.retraining.trigger_policy import (
    Alarm,
    PolicyState,
    Signal,
    TriggerContext,
    TriggerDecision,
    decide_triggers,
)

START = PolicyState("3", 1000.0)
EAGER = Retraining(cooldown=0)


def found(cause: Cause = "decay", needs: int = 1) -> Signal:
    return Signal(cause, True, f"{cause} was seen.", needs)


def calm(cause: Cause = "decay") -> Signal:
    return Signal(cause, False, "")


def run(policy: Retraining, *checks: list[Signal], **facts: Any) -> list[TriggerDecision]:
    """Decisions of one check after the other, an hour apart, each with the same facts."""
    state, decisions = START, []
    for number, signals in enumerate(checks):
        now = 10_000.0 + 3600 * number
        decisions.append(
            decide_triggers(policy, state, signals, TriggerContext(**{"now": now, **facts}))
        )
        state = decisions[-1].state
    return decisions


def fired(decisions: list[TriggerDecision]) -> list[list[str]]:
    return [[f"{f.cause}{'!' if f.retrains else ''}" for f in d.proposals] for d in decisions]


def test_degraded_model_is_retrained_and_drift_only_reported() -> None:
    assert fired(run(EAGER, [found("decay")])) == [["decay!"]]
    assert fired(run(EAGER, [found("estimate")])) == [["estimate!"]]
    assert fired(run(EAGER, [found("drift")])) == [["drift"]]
    assert fired(run(EAGER, [found("drift"), found("decay")])) == [["decay!", "drift"]]


def test_drift_retrains_where_the_project_says_so() -> None:
    assert fired(run(Retraining(on=("drift",)), [found("drift")])) == [["drift!"]]


def test_what_is_neither_retrained_for_nor_reported_opens_nothing() -> None:
    policy = Retraining(on=(), report=())
    assert fired(run(policy, [found("drift"), found("decay"), found("estimate")])) == [[]]


def test_an_alarm_needs_as_many_checks_in_a_row_as_it_says() -> None:
    twice = found(needs=2)
    assert fired(run(EAGER, [twice], [twice])) == [[], ["decay!"]]
    assert fired(run(EAGER, [twice], [calm()], [twice])) == [[], [], []]
    assert "must be found in another check" in run(EAGER, [twice])[0].why


def test_alarm_fires_again_only_after_it_was_over() -> None:
    policy = Retraining(cooldown=0, clear_after=2, again_after=None)
    checks = [[found()], [found()], [calm()], [found()], [calm()], [calm()], [found()]]
    decisions = run(policy, *checks)
    assert fired(decisions) == [["decay!"], [], [], [], [], [], ["decay!"]]
    assert [d.over for d in decisions].index(("decay",)) == 5
    assert "is not over" in decisions[1].why


def test_a_check_without_a_verdict_changes_nothing() -> None:
    first = run(EAGER, [found(needs=2)])[0].state
    assert decide_triggers(EAGER, first, [], TriggerContext(5.0)).state == first


def test_an_alarm_that_stays_fires_again_when_there_is_more_to_learn_from() -> None:
    policy = Retraining(cooldown=0, again_after=500)
    state = run(policy, [found()])[0].state
    few = decide_triggers(
        policy, state, [found()], TriggerContext(20_000.0, 10_000.0, new_labels=499)
    )
    assert few.proposals == ()
    enough = decide_triggers(
        policy, few.state, [found()], TriggerContext(20_000.0, 10_000.0, new_labels=500)
    )
    assert [f.retrains for f in enough.proposals] == [True]
    assert enough.proposals[0].key != run(policy, [found()])[0].proposals[0].key


def test_retraining_answers_every_alarm_raised_before_it_ended() -> None:
    policy = Retraining(cooldown=0, again_after=None)
    state = run(policy, [found("decay")])[0].state
    during = decide_triggers(
        policy, state, [found("estimate")], TriggerContext(10_100.0, active="t1")
    )
    assert during.proposals == ()
    assert "t1" in during.why
    after = decide_triggers(policy, during.state, [found("estimate")], TriggerContext(10_200.0))
    assert after.proposals == ()


def test_cooldown_delays_a_retraining() -> None:
    policy = Retraining(cooldown="1h")
    held = decide_triggers(policy, START, [found()], TriggerContext(10_000.0, retrained=9_000.0))
    assert held.proposals == ()
    assert "cooldown" in held.why
    assert "43 minutes" in held.why
    later = decide_triggers(policy, held.state, [], TriggerContext(13_000.0, retrained=9_000.0))
    assert [f.cause for f in later.proposals] == ["decay"]


def test_a_schedule_counts_from_the_last_retraining_or_the_versions_beginning() -> None:
    policy = Retraining(on=("schedule",), schedule="1h", cooldown=0)
    assert decide_triggers(policy, START, [], TriggerContext(1000.0 + 3599)).proposals == ()
    due = decide_triggers(policy, START, [], TriggerContext(1000.0 + 3600))
    assert [f.cause for f in due.proposals] == ["schedule"]
    assert (
        decide_triggers(policy, START, [], TriggerContext(4600.0, retrained=2000.0)).proposals == ()
    )


def test_enough_new_labels_retrain() -> None:
    policy = Retraining(on=("labels",), new_labels=100)
    assert decide_triggers(policy, START, [], TriggerContext(2000.0, new_labels=99)).proposals == ()
    due = decide_triggers(policy, START, [], TriggerContext(2000.0, new_labels=100))
    assert [f.cause for f in due.proposals] == ["labels"]
    assert "100 new labels" in due.why


def test_cause_with_the_highest_priority_is_chosen() -> None:
    policy = Retraining(on=("schedule", "decay", "drift"), schedule=1, cooldown=0)
    decision = decide_triggers(
        policy, START, [found("drift"), found("decay")], TriggerContext(9000.0)
    )
    assert [f.cause for f in decision.proposals] == ["decay"]
    assert "also: drift, schedule" in decision.why


CAUSES: list[Cause] = ["drift", "decay", "estimate"]
signals = st.lists(
    st.builds(Signal, st.sampled_from(CAUSES), st.booleans(), st.just("seen."), st.integers(1, 3)),
    max_size=4,
    unique_by=lambda signal: signal.cause,
)
policies = st.builds(
    Retraining,
    on=st.lists(st.sampled_from(CAUSES), unique=True).map(tuple),
    report=st.lists(st.sampled_from(CAUSES), unique=True).map(tuple),
    cooldown=st.sampled_from([0, 30, 300]),
    clear_after=st.integers(1, 3),
    again_after=st.sampled_from([None, 50]),
)
steps = st.lists(st.tuples(signals, st.integers(1, 200), st.integers(0, 40), st.booleans()))


class World:
    """Keeps triggers as the store would, and whether each retraining has ended."""

    def __init__(self) -> None:
        self.now, self.labels = 2000.0, 0
        self.retrained: float | None = None
        self.active: str | None = None
        self.open: set[str] = set()
        self.keys: list[str] = []

    def facts(self) -> TriggerContext:
        return TriggerContext(
            self.now, self.retrained, self.labels, self.active, frozenset(self.open)
        )

    def take(self, decision: TriggerDecision) -> None:
        for firing in decision.proposals:
            self.keys.append(firing.key)
            self.open.add(firing.cause)
            if firing.retrains:
                self.retrained, self.active, self.labels = self.now, firing.cause, 0
        self.open -= {cause for cause in decision.over if cause != self.active}

    def end(self) -> None:
        if self.active is not None:
            self.open.discard(self.active)
            self.active = None


@given(policies, steps)
def test_random_histories_keep_the_invariants(policy: Retraining, steps: Any) -> None:
    """No second retraining beside one, none within the cooldown, no cause key twice, no cause that
    has an open trigger, and none that the policy does not name."""
    world, state = World(), START
    for found_now, pause, labels, ends in steps:
        world.now += pause
        world.labels += labels
        if ends:
            world.end()
        facts = world.facts()
        decision = decide_triggers(policy, state, found_now, facts)
        assert decision == decide_triggers(policy, state, found_now, facts)
        assert decision.why
        retraining = [f for f in decision.proposals if f.retrains]
        assert len(retraining) <= 1
        if retraining:
            assert facts.active is None
            assert facts.retrained is None or facts.now - facts.retrained >= policy.cooldown
        for firing in decision.proposals:
            assert firing.cause in (policy.on if firing.retrains else policy.report)
            assert firing.cause not in facts.open
            assert decision.state.alarms[firing.cause].raised
        world.take(decision)
        state = decision.state
    assert len(set(world.keys)) == len(world.keys)


@given(policies, steps)
def test_cause_fires_once_for_each_episode(policy: Retraining, steps: Any) -> None:
    """Between two triggers of one cause its alarm was over, or enough new labels arrived."""
    world, state = World(), START
    last: dict[str, bool] = {}
    for found_now, pause, labels, ends in steps:
        world.now += pause
        world.labels += labels
        if ends:
            world.end()
        facts = world.facts()
        decision = decide_triggers(policy, state, found_now, facts)
        for cause in decision.over:
            last[cause] = False
        for firing in decision.proposals:
            more = policy.again_after is not None and facts.new_labels >= policy.again_after
            assert not last.get(firing.cause, False) or (firing.retrains and more)
            last[firing.cause] = True
        world.take(decision)
        state = decision.state


def test_an_alarm_of_nothing_is_calm() -> None:
    assert not Alarm().raised


def test_a_cause_with_an_open_trigger_gets_no_second() -> None:
    facts = TriggerContext(10_000.0, open=frozenset({"drift", "decay"}))
    decision = decide_triggers(EAGER, START, [found("drift"), found("decay")], facts)
    assert decision.proposals == ()


def test_further_increase_is_a_new_cause() -> None:
    new_evidence = Signal("decay", True, "It rose again.", new_evidence=True)
    decisions = run(EAGER, [found()], [found()], [new_evidence])
    assert fired(decisions)[1:] == [[], ["decay!"]]
    assert fired(run(EAGER, [new_evidence], [new_evidence], active="t1")) == [[], []]
