"""The gate's rule: what opens it, what keeps it shut, and what it says."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.bundle import Parity
from tidemill.errors import GateError
from tidemill.project import Gate
from tidemill.steps.gate.gate import GateVerdict, VersionEvidence, evaluate_gate

GOOD = Parity(rows=100, labels_equal=True, max_relative_error=1e-7)
ROWS = 1000
TRUTH = np.array(["no", "yes"] * (ROWS // 2))


def wrong_in(*rows: int, truth: Any = TRUTH, **more: Any) -> VersionEvidence:
    """A classifier that is wrong in these rows and right in the others."""
    predicted = truth.copy()
    for row in rows:
        predicted[row] = "no" if truth[row] == "yes" else "yes"
    return VersionEvidence(predicted, **{"parity": GOOD, **more})


def off_by(error: float, y: Any, **more: Any) -> VersionEvidence:
    return VersionEvidence(y + error, **{"parity": GOOD, **more})


def gate(**settings: Any) -> Gate:
    return Gate(**{"metric": "accuracy", **settings})


def judge(
    challenger: VersionEvidence, champion: VersionEvidence | None, rule: Gate | None = None
) -> GateVerdict:
    return evaluate_gate(challenger, champion, TRUTH, rule or gate(), "classification")


def test_a_challenger_that_is_clearly_better_passes_with_its_evidence() -> None:
    verdict = judge(wrong_in(*range(20)), wrong_in(*range(20, 120)))
    assert verdict.passed
    found = verdict.comparison
    assert found is not None
    assert (found.challenger, found.champion) == (0.98, 0.9)
    assert found.difference == pytest.approx(0.08)
    assert found.low is not None
    assert 0 < found.low < 0.08 < (found.high or 0) < 0.15
    assert found.probability_worse == 0.0
    assert (found.resamples, found.seed, verdict.rows) == (10_000, 20_240_229, 1000)
    assert verdict.metrics["accuracy"] == 0.98
    assert verdict.champion_metrics is not None
    assert verdict.champion_metrics["accuracy"] == 0.9
    assert "0.98 against 0.9" in verdict.reasons[0]


def test_worse_or_equal_challenger_fails() -> None:
    for challenger in (wrong_in(*range(50)), wrong_in(*range(100, 130)), wrong_in(*range(30))):
        verdict = judge(challenger, wrong_in(*range(30)))
        assert not verdict.passed
        assert "no better than the champion's" in verdict.reasons[0]


def test_uncertain_gain_fails_and_a_certain_one_passes() -> None:
    lucky = judge(wrong_in(*range(100, 145)), wrong_in(*range(50)))
    assert not lucky.passed
    assert "is worse with a probability of 0." in lucky.reasons[0]
    sure = judge(wrong_in(*range(45)), wrong_in(*range(50)))
    assert sure.passed, "the same five rows more, without an error of its own"
    assert lucky.comparison is not None
    assert sure.comparison is not None
    assert lucky.comparison.difference == sure.comparison.difference


@pytest.mark.parametrize(("rows", "passes"), [(1, False), (2, False), (3, True), (10, True)])
def test_gain_on_few_rows_fails(rows: int, passes: bool) -> None:
    """Without errors of its own a challenger is never behind; ties count half against it."""
    assert judge(wrong_in(), wrong_in(*range(rows))).passed is passes


def test_tolerance_lets_a_small_gain_pass_but_never_no_gain() -> None:
    rule = gate(tolerance=0.02)
    verdict = judge(wrong_in(*range(100, 145)), wrong_in(*range(50)), rule)
    assert verdict.passed
    assert "worse by more than 0.02" in verdict.reasons[0]
    assert not judge(wrong_in(*range(50)), wrong_in(*range(50)), rule).passed
    assert not judge(wrong_in(*range(51)), wrong_in(*range(50)), rule).passed


@settings(max_examples=40)
@given(confidence=st.floats(0.5, 0.999), tolerance=st.floats(0, 0.1), mine=st.integers(0, 200))
def test_the_verdict_is_the_rule_applied_to_its_own_evidence(
    confidence: float, tolerance: float, mine: int
) -> None:
    rule = gate(confidence=confidence, tolerance=tolerance)
    verdict = judge(wrong_in(*range(mine)), wrong_in(*range(100, 200)), rule)
    found = verdict.comparison
    assert found is not None
    better = found.challenger > found.champion
    assert verdict.passed == (better and found.probability_worse <= 1 - confidence)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.high


@settings(max_examples=30)
@given(shift=st.floats(0.01, 5.0), factor=st.floats(1.0, 4.0), seed=st.integers(0, 100))
def test_for_errors_less_is_better(shift: float, factor: float, seed: int) -> None:
    y = np.random.default_rng(seed).normal(size=200)
    small, large = off_by(shift, y), off_by(shift * factor, y)
    for metric in ("rmse", "mae"):
        verdict = evaluate_gate(small, large, y, Gate(metric=metric), "regression", resamples=200)
        assert verdict.comparison is not None
        gain = shift * factor - shift
        assert verdict.comparison.difference == pytest.approx(gain, abs=1e-9)
        back = evaluate_gate(large, small, y, Gate(metric=metric), "regression", resamples=200)
        assert not back.passed


def test_swapped_versions_have_the_opposite_difference() -> None:
    one, other = wrong_in(*range(40)), wrong_in(*range(60, 90))
    there, back = judge(one, other).comparison, judge(other, one).comparison
    assert there is not None
    assert back is not None
    assert there.difference == pytest.approx(-back.difference)
    assert there.probability_worse == pytest.approx(1 - back.probability_worse, abs=0.03)


def test_the_first_version_needs_no_comparison() -> None:
    verdict = judge(wrong_in(*range(100)), None)
    assert verdict.passed
    assert verdict.comparison is None
    assert verdict.champion_metrics is None
    assert "no champion to beat" in verdict.reasons[0]


def test_minimum_metrics_hold_for_every_version_and_point_the_right_way() -> None:
    rule = gate(minimum={"accuracy": 0.95, "f1_score": 0.85})
    verdict = judge(wrong_in(*range(100)), None, rule)
    assert not verdict.passed
    assert verdict.reasons == ("accuracy is 0.9; at least 0.95 is required.",)
    assert not verdict.minimum["accuracy"].holds
    assert verdict.minimum["f1_score"].holds
    y = np.arange(100.0)
    rule = Gate(metric="rmse", minimum={"rmse": 1.0})
    assert evaluate_gate(off_by(0.9, y), None, y, rule, "regression").passed
    above = evaluate_gate(off_by(1.1, y), None, y, rule, "regression")
    assert above.reasons == ("rmse is 1.1; at most 1 is required.",)


def test_a_minimum_that_cannot_be_computed_does_not_hold() -> None:
    verdict = judge(wrong_in(), None, gate(minimum={"roc_auc": 0.5}))
    assert not verdict.passed
    assert "roc_auc cannot be computed for this model" in verdict.reasons[0]


def test_a_compiled_model_needs_parity() -> None:
    drifted = Parity(rows=100, labels_equal=True, max_relative_error=0.01)
    switched = Parity(rows=100, labels_equal=False, max_relative_error=1e-9)
    for parity, words in (
        (None, "never compared"),
        (drifted, "differs from the trained one by 0.01; 1e-05 is allowed"),
        (switched, "in labels"),
    ):
        verdict = judge(wrong_in(parity=parity), None)
        assert not verdict.passed
        assert words in verdict.reasons[0]
    assert judge(wrong_in(parity=None, native=True), None).passed


def test_bundle_that_does_not_reproduce_its_example_fails() -> None:
    verdict = judge(wrong_in(reproduced=False), None)
    assert not verdict.passed
    assert "example predictions" in verdict.reasons[0]
    assert judge(wrong_in(reproduced=True), None).passed


def test_exceeded_latency_budget_fails() -> None:
    rule = gate(max_latency_ms=1.0)
    assert judge(wrong_in(latency_ms=0.5), None, rule).passed
    slow = judge(wrong_in(latency_ms=2.5), None, rule)
    assert slow.reasons == ("One row takes 2.5 ms; at most 1 ms is allowed.",)
    assert not judge(wrong_in(latency_ms=None), None, rule).passed
    assert judge(wrong_in(latency_ms=2.5), None).passed, "without a budget it is only recorded"


def test_every_reason_against_is_given() -> None:
    rule = gate(minimum={"accuracy": 0.99}, max_latency_ms=1.0)
    verdict = judge(wrong_in(*range(50), parity=None, latency_ms=9.0), wrong_in(), rule)
    assert len(verdict.reasons) == 4


def test_labels_of_any_kind_are_compared_by_what_they_are() -> None:
    truth = np.array([1, 0, 1, 0] * 50)
    right = VersionEvidence(np.array([1, 0, 1, 0] * 50, dtype=object), parity=GOOD)
    flags = VersionEvidence(np.array([True, False, True, False] * 50), parity=GOOD)
    for outcome in (right, flags):
        verdict = evaluate_gate(outcome, None, truth, gate(), "classification")
        assert verdict.metrics["accuracy"] == 1.0


def test_models_with_other_labels_in_another_order_are_compared_by_label() -> None:
    truth = np.array(["a", "b", "c"] * 60)
    sure = {"a": [0.8, 0.1, 0.1], "b": [0.1, 0.8, 0.1], "c": [0.1, 0.1, 0.8]}
    one = VersionEvidence(truth, np.array([sure[t] for t in truth]), ("a", "b", "c"), parity=GOOD)
    turned = np.array([sure[t][::-1] for t in truth])
    other = VersionEvidence(truth, turned, ("c", "b", "a"), parity=GOOD)
    knows_two = VersionEvidence(
        np.where(truth == "c", "a", truth),
        np.array([[0.9, 0.1] if t == "a" else [0.1, 0.9] for t in truth]),
        ("a", "b"),
        parity=GOOD,
    )
    rule = Gate(metric="log_loss")
    same = evaluate_gate(one, other, truth, rule, "classification")
    assert same.comparison is not None
    assert same.comparison.difference == pytest.approx(0.0)
    assert evaluate_gate(one, knows_two, truth, rule, "classification").passed


def test_a_champion_without_probabilities_cannot_be_beaten_on_them() -> None:
    labels = ("no", "yes")
    certain = np.array([[1.0, 0.0] if t == "no" else [0.0, 1.0] for t in TRUTH])
    challenger = wrong_in(probabilities=certain, labels=labels)
    verdict = judge(challenger, wrong_in(*range(50)), Gate(metric="log_loss"))
    assert not verdict.passed
    assert verdict.reasons == ("log_loss cannot be computed for the champion.",)
    verdict = judge(wrong_in(), None, Gate(metric="log_loss"))
    assert verdict.reasons == ("log_loss cannot be computed for this model.",)


def test_no_rows_or_a_metric_of_the_other_task_is_an_error() -> None:
    with pytest.raises(GateError, match="no held-out rows"):
        evaluate_gate(wrong_in(), None, TRUTH[:0], gate(), "classification")
    with pytest.raises(GateError, match="'rmse' is not a metric of classification"):
        judge(wrong_in(), None, Gate(metric="rmse"))
    y, rule = np.arange(3.0), Gate(minimum={"f1_score": 0.5})
    with pytest.raises(GateError, match="'f1_score' is not a metric of regression"):
        evaluate_gate(off_by(1, y), None, y, rule, "regression")


def test_a_verdict_survives_json_and_holds_no_nan() -> None:
    import json

    one_class = np.array(["yes"] * 30)
    certain = np.array([[0.0, 1.0]] * 30)
    outcome = VersionEvidence(one_class, certain, ("no", "yes"), parity=GOOD, latency_ms=0.1)
    for champion in (None, outcome):
        verdict = evaluate_gate(outcome, champion, one_class, gate(), "classification")
        assert "roc_auc" not in verdict.metrics
        plain = msgspec.to_builtins(verdict)
        json.dumps(plain, allow_nan=False)
        assert msgspec.convert(plain, GateVerdict) == verdict


def test_the_rate_of_false_promotions_is_near_what_the_gate_allows() -> None:
    """Two equally good models, 200 trials: about one in twenty passes at a confidence of 0.95."""
    random = np.random.default_rng(11)
    passed = 0
    for _ in range(200):
        one, other = (wrong_in(*np.flatnonzero(random.random(400) < 0.1)) for _ in range(2))
        y = TRUTH[:400]
        short = [VersionEvidence(o.predicted[:400], parity=GOOD) for o in (one, other)]
        verdict = evaluate_gate(*short, y, gate(), "classification", resamples=1000)
        passed += verdict.passed
    assert 2 <= passed <= 20
