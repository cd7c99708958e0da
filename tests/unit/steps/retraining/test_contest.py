"""The contest: how rarely chance wins, how soon a better challenger does, and its bookkeeping."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import ProjectError
from tidemill.policies import Contest
from tidemill.steps.retraining.contest import (
    FORMER_CHAMPION,
    STAKES,
    bounded_losses,
    decide_contest,
    decide_probation,
    error_scale,
    log_wealth,
    min_rows_to_decide,
    prior_autocorrelation_time,
)

POLICY = Contest(fewest=20, rows=400)

wrongs = st.lists(st.sampled_from([0.0, 1.0]), max_size=120)
pairs = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)), max_size=150)


def split(rows: list[tuple[float, float, float]]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    table = np.array(rows, dtype=float).reshape(-1, 3)
    return table[:, 0], {"one": table[:, 1], "other": table[:, 2]}


@given(pairs, st.integers(0, 150))
def test_decision_does_not_depend_on_batches(
    rows: list[tuple[float, float, float]], early: int
) -> None:
    """What is decided on the first rows stays; what is open there is decided later or not."""
    whole = decide_contest(*split(rows), POLICY)
    first = decide_contest(*split(rows[:early]), POLICY)
    if first.state != "open":
        assert first == whole
    elif whole.state != "open":
        assert whole.rows > len(rows[:early])
        assert decide_contest(*split(rows[: whole.rows]), POLICY) == whole


@given(wrongs)
def test_a_tie_never_wins(losses: list[float]) -> None:
    own = np.array(losses)
    found = decide_contest(own, {"twin": own.copy()}, POLICY)
    assert found.state in ("open", "kept")
    assert found.winner is None


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=200))
def test_wealth_is_the_mean_of_the_stakes_products(gains: list[float]) -> None:
    found = log_wealth(np.array([gains]))[0]
    products = [np.cumprod([1 + stake * gain for gain in gains]) for stake in STAKES]
    np.testing.assert_allclose(np.exp(found), np.mean(products, axis=0), rtol=1e-6)


def test_wealth_cannot_be_expected_to_grow_on_a_fair_game() -> None:
    """Over all sequences of fair wins and losses, its mean is exactly 1."""
    signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * 10)).reshape(10, -1).T
    final = np.exp(log_wealth(signs)[:, -1])
    assert final.mean() == pytest.approx(1.0)


def test_false_wins_are_rare_however_often_it_is_evaluated() -> None:
    """Three challengers as good as the champion, watched for 1,000 rows."""
    policy = Contest(fewest=30, rows=1000, alpha=0.05)
    random = np.random.default_rng(7)
    won = 0
    for _ in range(300):
        wrong = (random.random((4, 1000)) < 0.2).astype(float)
        found = decide_contest(wrong[0], {str(i): wrong[i] for i in (1, 2, 3)}, policy)
        won += found.state == "won"
    assert won / 300 <= 0.05


def test_a_better_challenger_wins_and_soon() -> None:
    policy = Contest(fewest=30, rows=1000)
    random = np.random.default_rng(11)
    rows = []
    for _ in range(60):
        champion = (random.random(1000) < 0.40).astype(float)
        better = (random.random(1000) < 0.15).astype(float)
        worse = (random.random(1000) < 0.45).astype(float)
        found = decide_contest(champion, {"worse": worse, "better": better}, policy)
        assert (found.state, found.winner) == ("won", "better")
        rows.append(found.rows)
    assert np.median(rows) < 150


def test_worse_challengers_end_the_contest() -> None:
    champion, worse = np.zeros(300), np.ones(300)
    found = decide_contest(champion, {"a": worse, "b": worse}, POLICY)
    assert found.state == "kept"
    assert found.rows == POLICY.fewest
    assert "every challenger is worse" in found.reason


def test_no_challenger_ahead_halfway_ends_the_contest() -> None:
    losses = np.tile([0.0, 1.0], 150)
    found = decide_contest(losses, {"twin": losses.copy()}, POLICY)
    assert (found.state, found.rows) == ("kept", 200)


def test_too_little_evidence_ends_with_the_champion() -> None:
    random = np.random.default_rng(3)
    champion = (random.random(500) < 0.2).astype(float)
    barely = champion.copy()
    barely[np.flatnonzero(champion)[:2]] = 0.0
    found = decide_contest(champion, {"barely": barely}, POLICY)
    assert (found.state, found.rows, found.winner) == ("kept", 400, None)


def test_no_winner_before_the_fewest_rows() -> None:
    champion, perfect = np.ones(100), np.zeros(100)
    assert decide_contest(champion[:19], {"p": perfect[:19]}, POLICY).state == "open"
    found = decide_contest(champion, {"p": perfect}, POLICY)
    assert (found.state, found.rows) == ("won", 20)


def test_more_challengers_need_more_evidence() -> None:
    champion, perfect, bad = np.ones(60), np.zeros(60), np.ones(60)
    alone = decide_contest(champion, {"p": perfect}, POLICY)
    crowd = decide_contest(champion, {"p": perfect, **{str(i): bad for i in range(9)}}, POLICY)
    assert crowd.bar == pytest.approx(alone.bar + math.log(10))


def test_without_challengers_the_champion_stays() -> None:
    assert decide_contest(np.zeros(5), {}, POLICY).state == "kept"


def test_losses_are_right_or_wrong_or_a_share_of_the_scale() -> None:
    labels = bounded_losses("classification", np.array(["a", "b"]), np.array(["a", "a"]))
    assert labels.tolist() == [0.0, 1.0]
    numbers = bounded_losses("regression", np.array([1.0, 1.0]), np.array([2.0, 99.0]), scale=4.0)
    assert numbers.tolist() == [0.25, 1.0]
    assert error_scale(np.zeros(3)) == 1.0
    assert error_scale(np.array([1.0, 1.0])) == 4.0


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"alpha": 0.0}, "alpha"),
        ({"archived": -1}, "archived"),
        ({"fewest": 500, "rows": 100}, "fewest"),
        ({"growth": 1.0}, "growth"),
        ({"age": "soon"}, "age"),
    ],
)
def test_invalid_policy_is_refused(wrong: dict[str, object], field: str) -> None:
    with pytest.raises(ProjectError) as refused:
        Contest(**wrong)  # type: ignore[arg-type]
    assert refused.value.field == field


def test_removed_settings_are_ignored_with_a_warning() -> None:
    removed: dict[str, Any] = {"windows": (400,), "half_life": None, "growth_limit": 10}
    for name, value in removed.items():
        with pytest.warns(FutureWarning, match=rf"Contest\({name}=...\) was removed"):
            policy = Contest(fewest=20, **{name: value})
        assert policy == Contest(fewest=20)


def test_autocorrelated_losses_need_more_rows() -> None:
    """Spells of 40 rows, bad and good ones: who is right in the first has not won after it."""
    random, policy = np.random.default_rng(8), Contest()
    apart = (random.random(1000) < 0.3).astype(float)
    bad = np.arange(1000) // 40 % 2 == 0
    spells = (random.random(1000) < np.where(bad, 0.8, 0.02)).astype(float)
    assert min_rows_to_decide(apart, policy) == policy.fewest
    assert policy.fewest < min_rows_to_decide(spells, policy) <= policy.rows // 2
    early = min_rows_to_decide(spells[: policy.fewest], policy)  # and nothing is decided on so few
    assert policy.fewest < early <= min_rows_to_decide(spells, policy)
    assert min_rows_to_decide(apart, policy, prior_autocorrelation_time(spells)) > policy.fewest
    assert (
        min_rows_to_decide(apart, policy, prior_autocorrelation_time(apart[::-1])) == policy.fewest
    )
    lucky = np.where(np.arange(1000) < 40, 0.0, spells)
    lucky[40:80] = 0.3
    assert decide_contest(apart, {"right": 0 * apart}, policy).rows == policy.fewest
    assert decide_contest(spells, {"lucky": lucky}, policy).rows >= min_rows_to_decide(
        spells, policy
    )


@given(pairs)
def test_probation_is_a_contest_with_exchanged_roles(
    rows: list[tuple[float, float, float]],
) -> None:
    table = split(rows)
    champion, former = table[0], table[1]["one"]
    policy = Contest(fewest=20, rows=400, probation=60)
    found = decide_probation(champion, former, policy)
    again = decide_contest(champion, {FORMER_CHAMPION: former}, Contest(fewest=20, rows=60))
    assert found == again
    if found.state == "won":
        assert former[: found.rows].mean() < champion[: found.rows].mean()
        assert found.winner == FORMER_CHAMPION


def test_a_probation_may_be_shorter_than_the_fewest_rows_of_a_contest() -> None:
    policy = Contest(fewest=100, rows=400, probation=30)
    found = decide_probation(np.ones(30), np.zeros(30), policy)
    assert (found.state, found.rows) == ("won", 30)
