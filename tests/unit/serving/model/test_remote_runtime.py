"""The output of a model in another process is interpreted correctly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import TidemillError
from tidemill.serving.model.remote_runtime import read_output

LABELS = ("ham", "spam")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(share=st.floats(0, 1))
def test_rows_that_sum_to_one_are_probabilities(dtype: Any, share: float) -> None:
    given_shares = np.array([[share, 1 - share]], dtype)
    labels, probabilities, values = read_output(given_shares, 1, LABELS)
    assert labels is values is None
    np.testing.assert_array_equal(probabilities, given_shares)  # type: ignore[arg-type]


@pytest.mark.parametrize("scores", [[[2.0, -1.0], [0.5, 3.0]], [[0.7, 0.3], [0.4, 0.9]]])
def test_other_scores_determine_the_label_but_no_probability(scores: Any) -> None:
    labels, probabilities, values = read_output(np.array(scores), 2, LABELS)
    assert probabilities is values is None
    assert labels is not None
    assert labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ([[np.nan, 1.0]], "not finite"),
        ([[1.0, 2.0, 3.0]], "[1, 3] for 1 rows"),
        (["eggs"], "not one of its labels"),
    ],
)
def test_an_invalid_output_is_refused(output: Any, told: str) -> None:
    with pytest.raises(TidemillError) as refused:
        read_output(np.array(output), 1, LABELS)
    assert told in str(refused.value)


def test_labels_and_numbers_are_accepted() -> None:
    labels, _, _ = read_output(np.array([["spam"], ["ham"]]), 2, LABELS)
    assert labels is not None
    assert labels.tolist() == [1, 0]
    assert read_output(np.array([[1], [2]]), 2, ())[2].tolist() == [1.0, 2.0]  # type: ignore[union-attr]
    with pytest.raises(TidemillError, match="strings"):
        read_output(np.array(["a"]), 1, ())
