"""Parameters from the command line or a request are found by name and typed, or refused by name."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from tidemill import Candidate, Project
from tidemill.errors import ProjectError
from tidemill.steps.search.parameters import check_params, parse_overrides


def network(
    epochs: int = 3,
    lr: float = 0.1,
    optimizer: Literal["adam", "sgd"] = "adam",
    depth: int | None = None,
    layers: tuple[int, ...] = (8,),
) -> Any:
    raise AssertionError("parameters are checked without building the network")


def plain(rate=0.5, fast=True, name="x", depth=None):  # type: ignore[no-untyped-def]
    return LogisticRegression()


def anything(**params: Any) -> Any:
    return LogisticRegression()


PROJECT = Project(
    name="p",
    data=dict,
    target="y",
    candidates=[
        Candidate("logistic", LogisticRegression, search={"C": [0.1, 1]}),
        Candidate("forest", RandomForestClassifier(), search={"max_depth": [3, None]}),
        Candidate("net", network, {"epochs": 5}),
        Candidate("plain", plain, search={"depth": [1, 2]}),
        Candidate("wrapped", LogisticRegression(), {"C": 2}),
    ],
)


@pytest.mark.parametrize(
    ("text", "candidate", "params"),
    [
        ("logistic.C=0.5", "logistic", {"C": 0.5}),
        ("logistic.C=1e-3", "logistic", {"C": 0.001}),
        ("logistic.class_weight=balanced", "logistic", {"class_weight": "balanced"}),
        ("logistic.class_weight={'a': 1}", "logistic", {"class_weight": {"a": 1}}),
        ("forest.max_depth=none", "forest", {"max_depth": None}),
        ("forest.max_features=0.5", "forest", {"max_features": 0.5}),
        ("forest.max_features=sqrt", "forest", {"max_features": "sqrt"}),
        ("n_estimators=50", "forest", {"n_estimators": 50}),
        ("epochs=7", "net", {"epochs": 7}),
        ("net.lr=1", "net", {"lr": 1.0}),
        ("net.optimizer=sgd", "net", {"optimizer": "sgd"}),
        ("net.depth=none", "net", {"depth": None}),
        ("net.layers=(4, 4)", "net", {"layers": (4, 4)}),
        ("plain.fast=no", "plain", {"fast": False}),
        ("plain.name=5", "plain", {"name": "5"}),
        ("plain.name=a=b", "plain", {"name": "a=b"}),
        ("plain.depth=4", "plain", {"depth": 4}),
        (" rate = 0.25 ", "plain", {"rate": 0.25}),
    ],
)
def test_texts_become_typed_values(text: str, candidate: str, params: dict[str, Any]) -> None:
    found = parse_overrides(PROJECT, [text])
    assert found == {candidate: params}
    assert [type(v) for v in found[candidate].values()] == [type(v) for v in params.values()]


@pytest.mark.parametrize(
    ("text", "message", "field"),
    [
        ("logistic.C", "does not set a parameter", "logistic.C"),
        ("=1", "does not set a parameter", "=1"),
        ("other.C=1", "no candidate 'other'", "other.C"),
        ("logistic.nope=1", "has no parameter 'nope'", "nope"),
        ("nope=1", "No candidate has a parameter 'nope'", "nope"),
        ("C=1", "Several candidates have a parameter 'C'", "C"),
        ("logistic.C=abc", "'C' parameter of LogisticRegression must be a float", "logistic.C"),
        ("logistic.C=-1", "must be a float in the range", "logistic.C"),
        ("n_estimators=0", "must be an int in the range", "forest.n_estimators"),
        ("net.epochs=1.5", "expected a whole number", "net.epochs"),
        ("net.lr=fast", "expected a number", "net.lr"),
        ("net.optimizer=rms", "expected 'adam' or 'sgd'", "net.optimizer"),
        ("net.depth=x", "expected a whole number or none", "net.depth"),
        ("plain.fast=2", "expected true or false", "plain.fast"),
        ("plain.rate=none", "expected a number", "plain.rate"),
    ],
)
def test_invalid_parameters_are_refused_by_name(text: str, message: str, field: str) -> None:
    with pytest.raises(ProjectError, match=message) as caught:
        parse_overrides(PROJECT, [text])
    assert caught.value.field == field


def test_an_ambiguous_name_lists_the_qualified_names() -> None:
    with pytest.raises(ProjectError) as caught:
        parse_overrides(PROJECT, ["C=1"])
    assert caught.value.expected == "one of logistic.C, wrapped.C"


def test_several_texts_are_combined() -> None:
    found = parse_overrides(PROJECT, ["net.lr=0.5", "net.epochs=2", "logistic.C=1"])
    assert found == {"net": {"lr": 0.5, "epochs": 2}, "logistic": {"C": 1}}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"epochs": 4, "lr": 1}, {"net": {"epochs": 4, "lr": 1.0}}),
        ({"net.epochs": 4.0}, {"net": {"epochs": 4}}),
        ({"net": {"epochs": 4, "depth": None}}, {"net": {"epochs": 4, "depth": None}}),
        ({"logistic": {"C": 0.5}, "epochs": 1}, {"logistic": {"C": 0.5}, "net": {"epochs": 1}}),
    ],
)
def test_json_values_keep_their_types(body: Any, expected: Any) -> None:
    assert check_params(PROJECT, body) == expected


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"epochs": "4"}, "is '4'; expected a whole number"),
        ({"epochs": True}, "is True; expected a whole number"),
        ({"epochs": 4.5}, "expected a whole number"),
        ({"epochs": None}, "expected a whole number"),
        ({"net": {"nope": 1}}, "has no parameter 'nope'"),
        ({"logistic": {"C": "1"}}, "must be a float"),
        ({"fast": 1}, "expected true or false"),
    ],
)
def test_json_of_another_type_is_refused(body: Any, message: str) -> None:
    with pytest.raises(ProjectError, match=message):
        check_params(PROJECT, body)


def test_a_candidate_that_accepts_any_keyword_accepts_any_value() -> None:
    free = Project("p", data=dict, target="y", candidates=[Candidate("f", anything)])
    assert parse_overrides(free, ["f.whatever=[1, 2]", "other=text"]) == {
        "f": {"whatever": [1, 2], "other": "text"}
    }


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(), st.booleans())
def test_values_survive_a_round_trip_through_text(rate: float, epochs: int, fast: bool) -> None:
    given = [f"plain.rate={rate!r}", f"net.epochs={epochs}", f"plain.fast={fast}"]
    assert parse_overrides(PROJECT, given) == {
        "plain": {"rate": rate, "fast": fast},
        "net": {"epochs": epochs},
    }


@given(st.text(max_size=30).filter(lambda text: text.strip("'\" ") not in ("adam", "sgd")))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(ProjectError, match="expected 'adam' or 'sgd'"):
        parse_overrides(PROJECT, [f"net.layers={text}", f"net.optimizer={text}"])
