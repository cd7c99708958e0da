"""The classifier test sees joint changes, and shuffling keeps its p-values right."""

import numpy as np
import pytest

from tidemill.steps.drift.classifier_test import classifier_test, one_hot


def normal(rows, columns, seed):
    return np.random.default_rng(seed).normal(size=(rows, columns))


def test_p_values_of_unchanged_windows_are_uniform():
    values = [
        classifier_test(np.exp(normal(80, 3, seed)), np.exp(normal(60, 3, 10_000 + seed)), seed)[1]
        for seed in range(400)
    ]

    assert np.mean(np.array(values) <= 0.05) <= 0.095
    assert 0.4 <= np.mean(values) <= 0.6


def test_a_small_shift_in_every_column_is_seen_at_once():
    auc, p_value = classifier_test(normal(600, 10, 1), normal(400, 10, 2) + 0.15)

    assert p_value < 1e-4
    assert auc > 0.55


def test_a_broken_correlation_is_seen_where_no_column_moved():
    before, after = normal(600, 2, 3), normal(400, 2, 4)
    before[:, 1] = 0.8 * before[:, 0] + 0.6 * before[:, 1]

    assert classifier_test(before, after)[1] < 1e-6


def test_values_that_go_missing_are_seen():
    after = normal(300, 3, 6)
    after[:60, 1] = np.nan

    assert classifier_test(normal(300, 3, 5), after)[1] < 1e-4


def test_the_same_seed_gives_the_same_answer():
    before, after = normal(100, 20, 7), normal(100, 20, 8)

    assert classifier_test(before, after, 1) == classifier_test(before, after, 1)


@pytest.mark.parametrize("columns", [np.ones((50, 2)), np.full((50, 2), np.nan)])
def test_constant_columns_cannot_be_separated(columns):
    assert classifier_test(columns, columns) == (0.5, 1.0)


def test_outlier_rows_do_not_change_the_result():
    before, after = normal(300, 3, 9), normal(300, 3, 10)
    before[0, 0], after[0, 1] = 1e300, -1e300

    assert 0.01 < classifier_test(before, after)[1] <= 1.0


def test_categories_become_columns_and_missing_stays_missing():
    encoded = one_hot(["a", None, "c"], ["a", "b"])

    assert encoded[0].tolist() == [1.0, 0.0]
    assert np.isnan(encoded[1]).all()
    assert encoded[2].tolist() == [0.0, 0.0]
