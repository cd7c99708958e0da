"""Pruning ends trials that are clearly behind, and does not change the models that are fitted."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from sklearn.datasets import make_classification, make_regression
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import SGDClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor

from tidemill import Candidate, Project
from tidemill.loop.training.trial import fit_and_evaluate, screen_trial
from tidemill.steps.data.prepare import PreparedData, prepare
from tidemill.steps.search import early_screening
from tidemill.steps.search.early_screening import screen
from tidemill.steps.search.optuna_search import shared_study
from tidemill.steps.search.parameters import Settings
from tidemill.steps.search.pruning import (
    STARTUP_TRIALS,
    Pruning,
    PruningCallback,
    TrialPruned,
    make_pruner,
)
from tidemill.steps.search.search import Trial, open_search

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

#: Two kinds of rate: some learn, the others leave a network as it began.
RATES = [0.03, 0.02, 0.015, 0.01, 0.007, 0.005, 1e-7, 1e-8, 1e-9]
SPACE = {"learning_rate_init": RATES, "alpha": [1e-4, 1e-3]}
NET = {"hidden_layer_sizes": (8,), "max_iter": 25}


def useless(settings: Settings) -> bool:
    return bool(settings["learning_rate_init"] < 1e-6)


def table() -> pd.DataFrame:
    X, y = make_classification(1600, 8, n_informative=5, random_state=1)
    return pd.DataFrame(X, columns=[f"x{n}" for n in range(8)]).assign(target=y)


def project(candidate: Candidate | None = None, **options: Any) -> Project:
    candidate = candidate or Candidate("net", MLPClassifier, NET, search=SPACE, trials=17)
    return Project("wide", options.pop("data", table), "target", [candidate], **options)


@pytest.fixture(scope="module")
def data() -> PreparedData:
    return prepare(project())


@dataclass
class Searched:
    values: list[float]
    settings: list[Settings]
    pruned: list[tuple[Settings, Pruning]]


def search(data: PreparedData, *, prune: bool) -> Searched:
    """The whole of a guided search, without tracking."""
    found = project(Candidate("net", MLPClassifier, NET, search=SPACE, trials=17, prune=prune))
    asked = open_search(found.candidates[0], seed=3)
    result = Searched([], [], [])
    while (settings := asked.ask()) is not None:
        trial, callback = Trial("net", 1, 17, settings), asked.pruning_callback(settings)
        try:
            screen_trial(trial, found, data, "f1_score", callback)
            trained = fit_and_evaluate(trial, found, data, callback=callback)
            value = trained.evaluation.metrics["f1_score"]
        except TrialPruned as ended:
            result.pruned.append((settings, ended.pruning))
            asked.tell(settings, None, ended.pruning)
        else:
            result.values.append(value)
            result.settings.append(settings)
            asked.tell(settings, value)
    return result


def test_a_pruned_search_ends_bad_trials_and_finds_the_same_best(
    data: PreparedData,
) -> None:
    whole, pruned = search(data, prune=False), search(data, prune=True)
    assert whole.pruned == []
    gone = [settings for settings, _ in pruned.pruned if useless(settings)]
    assert len(gone) >= 2
    fitted_late = pruned.settings[STARTUP_TRIALS:]
    assert not any(map(useless, fitted_late)), "each that came after the first five was given up"
    assert any(map(useless, whole.settings[STARTUP_TRIALS:]))
    assert {p.measure for _, p in pruned.pruned} == {"f1_score"}
    assert len(pruned.values) + len(pruned.pruned) == 17
    assert max(pruned.values) == max(whole.values)
    assert (
        pruned.settings[int(np.argmax(pruned.values))]
        == whole.settings[int(np.argmax(whole.values))]
    )


class Notes:
    """Records what is reported, as a callback that never prunes."""

    def __init__(self) -> None:
        self.told: list[tuple[int, str, float, bool]] = []

    def report(self, step: int, measure: str, score: float, *, maximize: bool) -> None:
        self.told.append((step, measure, score, maximize))


def screened(
    estimator: Any, data: PreparedData, metric: str = "f1_score", of: Project | None = None
) -> Notes:
    notes: Any = Notes()
    screen(estimator, of or project(), data, metric, notes)
    return notes


@pytest.mark.parametrize(
    "made",
    [
        MLPClassifier(**NET),
        MLPClassifier(**NET, early_stopping=True),
        SGDClassifier(class_weight="balanced", early_stopping=True),
    ],
    ids=["plain", "early stopping", "balanced"],
)
def test_scores_increase_with_the_passes(
    made: Any, data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early_screening, "MIN_ROWS_LINEAR", 1000)
    told = screened(made, data).told
    assert [(step, measure, up) for step, measure, _, up in told] == [
        (3, "f1_score", True), (6, "f1_score", True),
    ]  # fmt: skip
    assert 0.3 < told[0][2] <= 1


@pytest.mark.parametrize("metric", ["log_loss", "roc_auc", "accuracy", "precision_weighted"])
def test_the_deciding_metric_is_reported(metric: str, data: PreparedData) -> None:
    told = screened(MLPClassifier(**NET), data, metric).told
    assert [(name, up) for _, name, _, up in told] == [(metric, metric != "log_loss")] * 2


def test_a_regressor_is_screened_by_its_error() -> None:
    def numbers() -> pd.DataFrame:
        X, y = make_regression(1400, 4, noise=1.0, random_state=0)
        return pd.DataFrame(X, columns=list("abcd")).assign(target=y / y.std())

    made = MLPRegressor(hidden_layer_sizes=(8,), learning_rate_init=0.01)
    of = project(data=numbers)
    told = screened(made, prepare(of), "rmse", of).told
    assert [(name, up) for _, name, _, up in told] == [("rmse", False)] * 2
    assert told[1][2] < told[0][2]


def test_held_out_rows_are_not_used(data: PreparedData) -> None:
    blind = replace(data, test=data.test.iloc[:0])
    assert screened(MLPClassifier(**NET), blind).told == screened(MLPClassifier(**NET), data).told


def test_the_newest_rows_are_scored_if_the_newest_are_held_out() -> None:
    trained, scored = early_screening._split_rows(1000, project(shuffle=False))
    assert scored.tolist() == list(range(800, 1000))
    assert len(trained) == 200
    assert trained.max() < 800
    mixed, others = early_screening._split_rows(1000, project())
    assert not set(mixed.tolist()) & set(others.tolist())
    assert others.tolist() != scored.tolist()


def test_screening_does_not_change_the_fit(data: PreparedData) -> None:
    trial = Trial("net", 1, 1, {"learning_rate_init": 0.01})
    random.seed(7)
    np.random.seed(7)
    before = random.getstate(), np.random.get_state()[1].tolist()
    notes: Any = Notes()
    screen_trial(trial, project(), data, "f1_score", notes)
    assert notes.told
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    weights = [fit_and_evaluate(trial, project(), data).model["model"].coefs_[0] for _ in range(2)]
    study = optuna.create_study(direction="maximize")
    callback = PruningCallback(study.ask(), maximize=True)
    screen_trial(trial, project(), data, "f1_score", callback)
    watched = fit_and_evaluate(trial, project(), data, callback=callback).model["model"].coefs_[0]
    np.testing.assert_array_equal(weights[0], weights[1])
    np.testing.assert_array_equal(weights[0], watched)


class Stubborn(MLPClassifier):
    """Fits, but does not go on from where it is."""

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Any:
        raise ZeroDivisionError("not in parts")


def test_an_error_in_screening_is_logged_and_the_setting_fitted(
    data: PreparedData, caplog: pytest.LogCaptureFixture
) -> None:
    stubborn = project(Candidate("net", Stubborn, NET))
    trial = Trial("net", 1, 1, {})
    notes: Any = Notes()
    with caplog.at_level(logging.INFO, "tidemill.steps.search.early_screening"):
        screen_trial(trial, stubborn, data, "f1_score", notes)
    assert "Stubborn could not be screened: ZeroDivisionError: not in parts" in caplog.text
    assert notes.told == []
    trained = fit_and_evaluate(trial, stubborn, data, callback=notes)
    assert trained.evaluation.metrics["f1_score"] > 0.5


@pytest.mark.parametrize(
    "made",
    [
        RandomForestClassifier(),
        MLPClassifier(solver="lbfgs"),  # has no partial_fit
        MLPClassifier(max_iter=3),  # fewer passes than screening makes
        SGDClassifier(),  # as quick as screening with so few rows
    ],
    ids=["forest", "lbfgs", "short", "linear"],
)
def test_estimators_that_gain_nothing_are_not_screened(made: Any, data: PreparedData) -> None:
    assert screened(made, data).told == []


def test_few_rows_are_not_screened(data: PreparedData) -> None:
    few = replace(data, train=data.train.iloc[:999])
    assert screened(MLPClassifier(**NET), few).told == []


@pytest.mark.parametrize(
    ("candidate", "watched"),
    [
        (Candidate("a", MLPClassifier, search={"alpha": (0.1, 1.0)}), True),
        (Candidate("a", MLPClassifier, search={"alpha": (0.1, 1.0)}, trials=9), False),
        (Candidate("a", MLPClassifier, search={"alpha": (0.1, 1.0)}, prune=False), False),
        (Candidate("a", MLPClassifier, search={"alpha": [n / 9 for n in range(9)]}), False),
    ],
    ids=["guided", "short", "switched off", "grid"],
)
def test_only_long_guided_searches_are_pruned(candidate: Candidate, watched: bool) -> None:
    search = open_search(candidate)
    settings = search.ask()
    assert settings is not None
    assert (search.pruning_callback(settings) is not None) is watched


def told(study: Any, steps: dict[int, float], value: float | None = None) -> None:
    """A trial that reports these scores, and ends with the value."""
    trial = study.ask()
    callback = PruningCallback(trial, maximize=True)
    for step, score in steps.items():
        callback.report(step, "f1_score", score, maximize=True)
    study.tell(trial, value)


def test_the_first_trials_and_the_first_steps_are_never_pruned() -> None:
    study = optuna.create_study(direction="maximize", pruner=make_pruner(True))
    for n in range(STARTUP_TRIALS):
        told(study, {1: 0.9 - n / 5, 6: 0.9 - n / 5}, 0.9)  # each is the worst so far
    told(study, {1: -5.0, 2: -5.0, 6: 0.8}, 0.8)
    with pytest.raises(TrialPruned, match=r"^step 6: f1_score 0\.05$"):
        told(study, {1: 0.05, 6: 0.05})
    with pytest.raises(TrialPruned, match=r"^step 6: f1_score not finite$"):
        told(study, {6: float("nan")})


def test_a_loss_is_minimized_in_a_study_of_accuracy() -> None:
    study = optuna.create_study(direction="maximize")
    trial = study.ask()
    PruningCallback(trial, maximize=True).report(1, "valid_loss", 0.7, maximize=False)
    PruningCallback(trial, maximize=True).report(2, "valid_acc", 0.6, maximize=True)
    PruningCallback(trial, maximize=True).report(
        2, "valid_acc", 0.1, maximize=True
    )  # it started anew
    assert study.trials[0].intermediate_values == {1: -0.7, 2: 0.6}


def test_an_unavailable_study_prunes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Away:
        def report(self, value: float, step: int) -> None:
            raise ConnectionError("no route")

    callback = PruningCallback(Away(), maximize=True)
    with caplog.at_level(logging.WARNING):
        callback.report(3, "f1_score", 0.0, maximize=True)
    assert "Step 3 could not be reported to the study" in caplog.text


CANDIDATE = Candidate("net", MLPClassifier, search={"alpha": (1e-6, 1.0)}, trials=12)


def test_processes_that_share_a_study_prune_by_all_trials(postgres_url: str) -> None:
    def opened() -> Any:
        return shared_study(postgres_url, "sweep:net", maximize=True, seed=1, prune=True)

    with opened() as one:
        for n in range(STARTUP_TRIALS):
            one.ask(CANDIDATE, {}, owner=f"job-{n}")
            one.pruning_callback().report(6, "f1_score", 0.9, maximize=True)
            one.tell(0.9)
    with opened() as other:
        other.ask(CANDIDATE, {}, owner="job-5")
        with pytest.raises(TrialPruned) as ended:
            other.pruning_callback().report(6, "f1_score", 0.2, maximize=True)
        other.tell(None, ended.value.pruning)
        # The next worker reports a score and is killed; its trial is drawn anew and runs well.
        other.ask(CANDIDATE, {}, owner="job-6")
        other.pruning_callback().report(3, "f1_score", 0.95, maximize=True)
    with opened() as again:
        again.ask(CANDIDATE, {}, owner="job-6")
        again.pruning_callback().report(3, "f1_score", 0.95, maximize=True)
        again.tell(0.95)
        trials = again._study.get_trials()
    states = [trial.state.name for trial in trials]
    assert states == ["COMPLETE"] * 5 + ["PRUNED", "FAIL", "COMPLETE"]
    assert trials[5].value == 0.2, "what was pruned has a value to learn from"


def test_a_shared_study_without_pruning_has_no_callback(tmp_path: Any) -> None:
    storage = f"sqlite:///{tmp_path / 'optuna.db'}"
    with shared_study(storage, "plain", maximize=True, seed=1) as study:
        study.ask(CANDIDATE, {}, owner="job-1")
        assert study.pruning_callback() is None
