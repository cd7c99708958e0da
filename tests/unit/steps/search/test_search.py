"""Settings to try: the whole grid, or a reproducible guided search."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from tidemill import Candidate
from tidemill.steps.search.optuna_search import OptunaSearch
from tidemill.steps.search.search import GridSearch, Search, Trial, open_search


def candidate(search: dict[str, Any], trials: int | None = None) -> Candidate:
    return Candidate("a", LogisticRegression, search=search, trials=trials)


def drain(search: Search, score: Any = lambda settings: 1.0) -> list[dict[str, Any]]:
    tried = []
    while (found := search.ask()) is not None:
        tried.append(found)
        search.tell(found, score(found))
    return tried


def test_lists_are_tried_in_full() -> None:
    found = open_search(candidate({"C": [0.1, 1], "penalty": ["l1", "l2"]}))
    assert found.total == 4
    assert drain(found) == [
        {"C": 0.1, "penalty": "l1"},
        {"C": 0.1, "penalty": "l2"},
        {"C": 1, "penalty": "l1"},
        {"C": 1, "penalty": "l2"},
    ]


def test_nothing_to_search_is_one_trial() -> None:
    assert drain(open_search(candidate({}))) == [{}]


def test_pinned_parameters_are_passed_to_all_trials_and_not_searched() -> None:
    found = open_search(candidate({"C": [0.1, 1], "penalty": ["l1", "l2"]}), pinned={"C": 5})
    assert drain(found) == [{"C": 5, "penalty": "l1"}, {"C": 5, "penalty": "l2"}]


def test_more_trials_than_settings_try_each_once() -> None:
    found = open_search(candidate({"C": [1, 2, 3]}), trials=10)
    assert isinstance(found, GridSearch)
    assert len(drain(found)) == 3


def test_fewer_trials_than_settings_never_repeat_one() -> None:
    found = open_search(candidate({"C": [1, 2, 3], "penalty": ["l1", "l2"]}), trials=5)
    tried = [tuple(settings.values()) for settings in drain(found)]
    assert len(tried) == len(set(tried)) == 5


@pytest.mark.parametrize(("own", "asked", "total"), [(None, None, 20), (7, None, 7), (7, 3, 3)])
def test_ranges_use_the_requested_or_the_candidates_number(
    own: int | None, asked: int | None, total: int
) -> None:
    found = open_search(candidate({"C": (0.1, 10.0)}, own), trials=asked)
    assert found.total == total
    assert len(drain(found)) == total


def test_the_same_seed_gives_the_same_search() -> None:
    def run(seed: int) -> list[Any]:
        found = open_search(candidate({"C": (0.001, 10.0)}), trials=15, seed=seed)
        return drain(found, lambda settings: -abs(settings["C"] - 1))

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_a_guided_search_converges() -> None:
    found = open_search(candidate({"C": (0.0, 1.0)}), trials=40, seed=0, maximize=False)
    tried = drain(found, lambda settings: (settings["C"] - 0.3) ** 2)
    late = [abs(settings["C"] - 0.3) for settings in tried[20:]]
    early = [abs(settings["C"] - 0.3) for settings in tried[:10]]
    assert sum(late) / len(late) < sum(early) / len(early) / 2


def test_failed_trials_do_not_end_a_search() -> None:
    found = open_search(candidate({"C": (0.1, 1.0)}), trials=8)
    values = iter([None, float("nan"), 1.0, None, 2.0, 1.5, None, 1.0])
    assert len(drain(found, lambda settings: next(values))) == 8


def test_a_list_may_contain_any_object() -> None:
    values = [(1,), [2, 2], None, {"a": 1}]
    found = open_search(candidate({"C": values, "k": (1, 9)}), trials=12)
    assert isinstance(found, OptunaSearch)
    assert all(settings["C"] in values for settings in drain(found))


def test_results_may_be_told_in_any_order() -> None:
    found = open_search(candidate({"C": (0.1, 1.0)}), trials=3)
    asked = [found.ask() for _ in range(3)]
    for one in reversed(asked):
        assert one is not None
        found.tell(one, 1.0)
    assert found.ask() is None


@settings(max_examples=25)
@given(
    low=st.floats(1e-6, 10),
    factor=st.floats(1.01, 1e6),
    whole=st.integers(1, 50),
    seed=st.integers(0, 99),
)
def test_drawn_values_stay_in_their_range(low: float, factor: float, whole: int, seed: int) -> None:
    space = {"C": (low, low * factor), "depth": (1, 1 + whole)}
    for found in drain(open_search(candidate(space), trials=4, seed=seed)):
        assert low <= found["C"] <= low * factor
        assert isinstance(found["depth"], int)
        assert 1 <= found["depth"] <= 1 + whole


def test_wide_ranges_are_sampled_on_a_log_scale() -> None:
    found = open_search(candidate({"C": (1e-6, 1.0)}), trials=30, seed=0)
    small = [s for s in drain(found) if s["C"] < 1e-3]
    assert len(small) > 5


def test_a_run_is_numbered_only_if_there_are_several() -> None:
    assert Trial("forest", 1, 1).name == "forest"
    assert Trial("forest", 2, 6).name == "forest-2"
