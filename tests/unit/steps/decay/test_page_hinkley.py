"""Detectors on streams: rare false alarms, quick true ones, and no difference made by batches."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.steps.decay.autocorrelation import autocorrelation_time, robust_autocorrelation_time
from tidemill.steps.decay.holdout import Holdout, LossStatistics
from tidemill.steps.decay.loss_detector import loss_detector, retained_champion_detector
from tidemill.steps.decay.page_hinkley import PageHinkley, page_hinkley


def wrong(rows, rate, seed):
    return (np.random.default_rng(seed).random(rows) < rate).astype(float)


def detector(**changes):
    options = {"loss_increase": 0.1, "cap": 1.0, "rows_between_alarms": 10_000} | changes
    return page_hinkley(0.1, 0.3, **options)


def test_a_higher_error_rate_is_noticed_soon():
    watch = detector()

    assert not watch.update(wrong(1000, 0.1, 0))
    assert watch.update(wrong(500, 0.3, 1))
    assert 1000 < watch.rows < 1200
    assert watch.run_start == pytest.approx(1000, abs=60)


def test_a_lower_error_rate_is_no_alarm():
    assert not detector().update(wrong(20_000, 0.02, 2))


def test_false_alarms_are_as_rare_as_promised():
    alarms, rows = 0, 0
    for seed in range(40):
        watch = detector(rows_between_alarms=2000)
        alarms += watch.update(wrong(2000, 0.1, seed))
        rows += 2000

    assert rows / max(alarms, 1) >= 2000


@settings(max_examples=30)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=8), st.integers(0, 20))
def test_batches_make_no_difference(sizes, seed):
    losses = wrong(sum(sizes), 0.16, seed)
    at_once, piecewise = detector(loss_increase=0.08), detector(loss_increase=0.08)
    at_once.update(losses)
    for part in np.split(losses, np.cumsum(sizes)[:-1]):
        piecewise.update(part)

    assert piecewise.total == pytest.approx(at_once.total)
    assert (piecewise.rows, piecewise.run_start, piecewise.alarm) == (
        at_once.rows,
        at_once.run_start,
        at_once.alarm,
    )


def test_saved_detector_resumes():
    losses = wrong(3000, 0.13, 3)
    whole, saved = detector(), detector()
    whole.update(losses)
    saved.update(losses[:1500])
    restored = msgspec.json.decode(msgspec.json.encode(saved), type=PageHinkley)
    restored.update(losses[1500:])

    assert restored.total == pytest.approx(whole.total)
    assert (restored.rows, restored.run_start, restored.alarm) == (
        whole.rows,
        whole.run_start,
        whole.alarm,
    )


def test_reset_detector_starts_over():
    watch = detector()
    watch.update(wrong(1000, 0.5, 4))
    assert watch.alarm
    watch.reset()

    assert not watch.update(wrong(500, 0.1, 5))


def test_a_cautious_expectation_comes_down_with_the_stream_and_never_rises():
    watch = detector(loss_increase=0.06)
    watch.max_expected, watch.mean, watch.weight, watch.margin = 0.2, 0.1, 50, 0.5
    fixed = msgspec.structs.replace(watch, weight=-1.0)
    losses = np.r_[wrong(4000, 0.05, 20), wrong(3000, 0.16, 21)]

    assert watch.update(losses)
    assert 4000 < watch.rows < 6000
    assert not fixed.update(losses)
    slowly = msgspec.structs.replace(watch, total=0.0, alarm=False, mean=0.3, weight=1e6)
    assert slowly.update(wrong(6000, 0.25, 22))


def test_one_enormous_error_is_no_alarm():
    watch = page_hinkley(1.0, 1.0, loss_increase=0.5, cap=5.0)

    assert not watch.update([1e9])


@pytest.mark.parametrize(
    "wrong_options",
    [{"loss_increase": 0.0}, {"loss_increase": -1.0}, {"cap": 0.12}],
)
def test_a_detector_that_could_never_work_is_an_error(wrong_options):
    with pytest.raises(ValueError, match="loss_increase"):
        detector(**wrong_options)


def test_accepted_losses_are_no_alarm_and_a_further_increase_is():
    random = np.random.default_rng(3)
    first = loss_detector(Holdout("classification", 400, {}, LossStatistics(0.1, 0.3)))
    spell = (random.random(600) < 0.3).astype(float)
    assert first.update(spell)
    accepting = retained_champion_detector(first, "classification", spell)
    assert not accepting.alarm
    assert not accepting.update((random.random(20_000) < 0.3).astype(float))
    assert accepting.update((random.random(1_000) < 0.5).astype(float))


def test_low_losses_leave_the_expectation_unchanged():
    first = loss_detector(Holdout("classification", 400, {}, LossStatistics(0.1, 0.3)))
    accepting = retained_champion_detector(first, "classification", np.zeros(500))
    assert (accepting.max_expected, accepting.threshold) == (first.max_expected, first.threshold)


@given(st.integers(1, 40), st.integers(0, 9))
def test_repeated_rows_have_their_autocorrelation_time(times, seed):
    losses = np.random.default_rng(seed).random(3000)
    found = autocorrelation_time(np.repeat(losses, times)[:3000])
    assert 1.0 <= found <= 55
    assert times * 0.35 < found < times * 2.5


@given(st.integers(3, 40), st.integers(0, 9))
def test_autocorrelation_is_found_at_any_level(times, seed):
    losses = np.repeat(np.random.default_rng(seed).random(3000), times)[:3000]
    assert times * 0.25 < robust_autocorrelation_time(losses) < times * 2.5
    losses[1500:] += 10.0
    assert robust_autocorrelation_time(losses) >= 1.0


@given(st.integers(0, 200))
def test_level_shift_is_no_autocorrelation(seed):
    random = np.random.default_rng(seed)
    losses = (random.random(2000) < np.repeat([0.1, 0.5], 1000)).astype(float)
    assert robust_autocorrelation_time(losses) < 0.6 * autocorrelation_time(losses)
    assert autocorrelation_time(losses) > 3.0


def test_few_rows_and_constant_losses_give_1():
    assert robust_autocorrelation_time(np.repeat([0.0, 1.0], 200)) == 1.0
    assert robust_autocorrelation_time(np.full(2000, 0.3)) == 1.0
    assert robust_autocorrelation_time(np.zeros(0)) == 1.0
