"""Training on a real MLflow store: what is tracked, what is registered, and what fails."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from tidemill import Candidate, Gate, Project, Tensor, bundle
from tidemill.errors import DataError, ExportError, ProjectError, UnavailableError
from tidemill.loop.operations.signals import exit_on_sigterm
from tidemill.loop.training.train import Cancelled, Progress, TrainResult, train
from tidemill.steps.search.search import SearchOptions, plan_searches
from tidemill.stores.mlflow.tracking import Tracking

ROWS = 120


def customers() -> pd.DataFrame:
    """A made-up table with every kind of column, missing values, and a target in words."""
    rng = np.random.default_rng(3)
    age = rng.normal(40, 12, ROWS)
    plan = rng.choice(["basic", "plus", "family"], ROWS)
    left = (age + 15 * (plan == "basic") + rng.normal(0, 6, ROWS)) > 46
    frame = pd.DataFrame(
        {
            "age": np.where(rng.random(ROWS) < 0.1, np.nan, age),
            "visits": rng.integers(0, 30, ROWS),
            "plan": np.where(rng.random(ROWS) < 0.1, None, plan),
            "paid": rng.random(ROWS) < 0.5,
            "country": "NL",
        }
    )
    return frame.assign(outcome=np.where(left, "left", "stayed"))


class Broken(ClassifierMixin, BaseEstimator):
    """Raises when it is fitted; or does to the process what it is told to."""

    def __init__(self, act: Callable[[], None] | None = None) -> None:
        self.act = act

    def fit(self, X: Any, y: Any) -> Broken:
        if self.act is not None:
            self.act()
        raise ArithmeticError("these numbers do not add up")


class Oracle(ClassifierMixin, BaseEstimator):
    """The best of models here, in a class that no server has or trusts."""

    def fit(self, X: Any, y: Any) -> Oracle:
        self.tree_ = DecisionTreeClassifier(max_depth=3).fit(X, y)
        self.classes_ = self.tree_.classes_
        return self

    def predict(self, X: Any) -> Any:
        return self.tree_.predict(X)

    def predict_proba(self, X: Any) -> Any:
        return self.tree_.predict_proba(X)


@dataclass(frozen=True)
class Store:
    """An MLflow store in files, and what a test wants to know of it."""

    uri: str
    artifacts: Path
    root: Path

    @property
    def client(self) -> Any:
        return Tracking(self.uri).call(lambda client: client)

    def train(self, project: Project, **options: Any) -> TrainResult:
        names = [name for name in ("overrides", "trials", "only") if name in options]
        search = {name: options.pop(name) for name in names}
        tracking = Tracking(self.uri, artifact_root=self.artifacts)
        return train(project, tracking, SearchOptions(**search), **options)

    def runs(self, name: str) -> list[Any]:
        """All runs of an experiment, in the order they were started."""
        experiment = self.client.get_experiment_by_name(name)
        found = self.client.search_runs([experiment.experiment_id])
        return sorted(found, key=lambda run: run.info.start_time)

    def files(self, run_id: str) -> dict[str, Path]:
        folder = Path(self.client.get_run(run_id).info.artifact_uri.removeprefix("file://"))
        return {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}

    def models(self) -> list[str]:
        return [model.name for model in self.client.search_registered_models()]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("train")
    store = Store(f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts", folder)
    store.client.search_experiments()
    return store


def churn(name: str, *candidates: Candidate, **options: Any) -> Project:
    some = candidates or (Candidate("tree", DecisionTreeClassifier, {"max_depth": 3}),)
    return Project(name, data=customers, target="outcome", candidates=some, **options)


@dataclass(frozen=True)
class Trained:
    store: Store
    result: TrainResult
    progress: list[Progress]
    project: Project


@pytest.fixture(scope="module")
def trained(store: Store) -> Trained:
    """One training with a search, a failing candidate and a folder for the processed rows."""
    project = churn(
        "churn",
        Candidate(
            "logistic",
            LogisticRegression,
            {"max_iter": 300},
            search={"C": [0.1, 10.0], "fit_intercept": [True, False]},
        ),
        Candidate("broken", Broken),
        Candidate("stump", DecisionTreeClassifier, {"max_depth": 1}),
        processed="data/processed",
        description="Who leaves, and who stays.",
        tags={"team": "retention"},
        root=store.root / "project",
    )
    progress: list[Progress] = []
    result = store.train(project, on_progress=progress.append)
    return Trained(store, result, progress, project)


def test_every_trial_is_a_child_run_and_the_sweep_their_parent(trained: Trained) -> None:
    parent, *children = trained.store.runs("churn")
    assert parent.info.run_name == "train"
    assert parent.data.tags["tidemill.kind"] == "sweep"
    assert parent.info.run_id == trained.result.sweep_id
    assert [run.info.run_name for run in children] == [
        "logistic-1", "logistic-2", "logistic-3", "logistic-4", "broken", "stump",
    ]  # fmt: skip
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert [run.data.tags["tidemill.candidate"] for run in children][3:] == [
        "logistic", "broken", "stump",
    ]  # fmt: skip


def test_a_trials_run_has_its_parameters_metrics_and_origin(trained: Trained) -> None:
    run = trained.store.runs("churn")[2]
    params, tags = run.data.params, run.data.tags
    assert (params["C"], params["fit_intercept"], params["max_iter"]) == ("0.1", "False", "300")
    assert (params["dataset_name"], params["rows_train"], params["rows_test"]) == (
        "customers", "96", "24",
    )  # fmt: skip
    assert {
        "accuracy",
        "precision",
        "recall",
        "f1_score",
        "f1_weighted",
        "roc_auc",
        "log_loss",
    } <= set(run.data.metrics)
    assert tags["team"] == "retention"
    assert len(tags["tidemill.data_fingerprint"]) == len(tags["tidemill.test_fingerprint"]) == 64
    assert tags["tidemill.version.scikit-learn"]
    assert run.inputs.dataset_inputs[0].dataset.name == "churn"


def test_every_successful_trial_logs_a_plot_and_reports(trained: Trained) -> None:
    names = {"confusion_matrix.png", "classification_report.txt", "classification_report.json"}
    for run in trained.store.runs("churn")[1:5]:
        assert names <= set(trained.store.files(run.info.run_id))


def test_a_failing_candidate_does_not_affect_the_others_and_logs_its_traceback(
    trained: Trained,
) -> None:
    broken = next(r for r in trained.store.runs("churn") if r.info.run_name == "broken")
    assert broken.info.status == "FAILED"
    assert broken.data.tags["tidemill.error"] == "ArithmeticError: these numbers do not add up"
    text = trained.store.files(broken.info.run_id)["error.txt"].read_text()
    assert "Traceback" in text
    assert "in fit" in text
    assert trained.result.failures == {"broken": "ArithmeticError: these numbers do not add up"}
    others = [r.info.status for r in trained.store.runs("churn") if r is not broken]
    assert others.count("FINISHED") == 6


def test_the_winner_has_the_best_value_of_the_deciding_metric(trained: Trained) -> None:
    result = trained.result
    values = {t.name: t.metrics[result.metric] for t in result.trials if not t.error}
    assert result.metric == "f1_score"
    assert values[result.trial] == max(values.values())
    assert result.metrics[result.metric] == values[result.trial]


def test_the_winners_run_has_all_artifacts(trained: Trained) -> None:
    files = trained.store.files(trained.result.run_id)
    assert {
        "bundle/manifest.json",
        "bundle/model.onnx",
        "bundle/signature.json",
        "best_model_metrics.json",
        "calibration.png",
        "confusion_matrix.png",
        "classification_report.txt",
        "metric_intervals.json",
        "preprocessing/scaler.pkl",
        "roc_pr_curves.png",
    } <= set(files)
    scaler = pickle.loads(files["preprocessing/scaler.pkl"].read_bytes())
    assert scaler.mean_.shape == (2,)
    report = json.loads(files["classification_report.json"].read_text())
    assert {"left", "stayed"} <= set(report)
    bounds = json.loads(files["metric_intervals.json"].read_text())["intervals"]
    assert set(bounds) == set(trained.result.metrics)
    for metric, (low, high) in bounds.items():
        assert low <= trained.result.metrics[metric] <= high


def test_the_bundle_is_intact_and_names_its_source(trained: Trained) -> None:
    manifest = trained.store.files(trained.result.run_id)["bundle/manifest.json"]
    found = bundle.read(manifest.parent, digest=trained.result.digest)
    assert found.manifest.model == "churn"
    assert found.manifest.source["run_id"] == trained.result.run_id
    assert found.manifest.metrics == pytest.approx(dict(trained.result.metrics))
    assert [(c.name, c.kind, c.nullable) for c in found.signature.columns] == [
        ("age", "number", True),
        ("visits", "integer", False),
        ("plan", "text", True),
        ("paid", "boolean", False),
    ]
    assert found.signature.labels == ("left", "stayed")


def test_the_version_is_registered_with_description_and_tags(trained: Trained) -> None:
    result, client = trained.result, trained.store.client
    version = client.get_model_version("churn", result.version)
    assert client.get_registered_model("churn").description == "Who leaves, and who stays."
    assert version.run_id == result.run_id
    assert "f1_score" in version.description
    assert "logistic" in version.description
    expected = {
        "tidemill.bundle": result.digest,
        "tidemill.run_id": result.run_id,
        "tidemill.candidate": result.candidate,
        "stage": "None",
        "team": "retention",
        "tidemill.runtime": "onnx",
    }
    assert expected.items() <= version.tags.items()
    assert json.loads(version.tags["tidemill.split"])["seed"] == 42
    experiment = trained.store.runs("churn")[0].info.experiment_id
    (model,) = client.search_logged_models([experiment])
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "churn", "version": "1"}]


@pytest.fixture
def active(store: Store) -> Iterator[None]:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(store.uri)
    yield
    mlflow.set_tracking_uri(before)


@pytest.mark.usefixtures("active")
@pytest.mark.parametrize("uri", ["models:/churn/1", "runs:/{run}/model"])
def test_the_mlflow_model_loads_and_predicts_labels(trained: Trained, uri: str) -> None:
    loaded = mlflow.pyfunc.load_model(uri.format(run=trained.result.run_id))
    rows = pd.read_csv(trained.store.root / "project/data/processed/test.csv")
    answers = loaded.predict(rows.astype({"plan": object}))
    assert np.mean(answers == rows["outcome"]) == pytest.approx(trained.result.metrics["accuracy"])


def test_the_processed_rows_and_the_best_metrics_are_written(trained: Trained) -> None:
    folder = trained.store.root / "project/data/processed"
    assert sorted(p.name for p in folder.iterdir()) == [
        "best_model_metrics.json", "test.csv", "train.csv",
    ]  # fmt: skip
    assert len(pd.read_csv(folder / "train.csv")) == 96
    best = json.loads((folder / "best_model_metrics.json").read_text())
    assert best["best_model"] == trained.result.candidate
    assert best["metrics"] == pytest.approx(dict(trained.result.metrics))
    assert len(best["candidates"]) == 6


def test_warnings_about_the_data_are_recorded(trained: Trained) -> None:
    assert trained.result.warnings == ("Column 'country' has only one value; it is left out.",)
    parent = trained.store.runs("churn")[0]
    assert parent.data.tags["tidemill.warnings"] == trained.result.warnings[0]
    assert "data_warnings.txt" in trained.store.files(parent.info.run_id)
    assert parent.data.tags["tidemill.version"] == trained.result.version


def test_progress_rises_to_100_percent_and_names_what_is_fitted(trained: Trained) -> None:
    percents = [step.percent for step in trained.progress]
    assert percents == sorted(percents)
    assert (percents[0], percents[-1]) == (0, 100)
    stages = list(dict.fromkeys(step.stage for step in trained.progress))
    assert stages == ["load", "fit", "export", "register", "done"]
    fitting = [step for step in trained.progress if step.candidate == "stump"]
    assert (fitting[0].trial, fitting[0].trials) == (6, 6)
    assert trained.progress[-1].best == trained.result.metrics["f1_score"]


def test_training_again_registers_the_next_version_with_the_same_digests(store: Store) -> None:
    first, second = (store.train(churn("again")) for _ in range(2))
    assert (first.version, second.version) == ("1", "2")
    assert first.metrics == second.metrics
    versions = [store.client.get_model_version("again", v).tags for v in ("1", "2")]
    assert len({tags["tidemill.test_fingerprint"] for tags in versions}) == 1


def test_when_all_fail_each_reason_is_given_and_nothing_is_registered(store: Store) -> None:
    project = churn(
        "hopeless", Candidate("a", Broken), Candidate("b", LogisticRegression, {"X": 1})
    )
    with pytest.raises(ProjectError) as caught:
        store.train(project)
    assert "a: ArithmeticError: these numbers do not add up" in str(caught.value)
    assert "b: ProjectError: Candidate 'b' has no parameter 'X'" in str(caught.value)
    assert [run.info.status for run in store.runs("hopeless")] == ["FAILED"] * 3
    assert "hopeless" not in store.models()


def press_ctrl_c() -> None:
    raise KeyboardInterrupt


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("name", "act", "raised"),
    [("ctrl-c", press_ctrl_c, KeyboardInterrupt), ("sigterm", terminate, SystemExit)],
)
def test_an_interrupted_training_is_killed_and_registers_nothing(
    store: Store, name: str, act: Callable[[], None], raised: type[BaseException]
) -> None:
    project = churn(
        name, Candidate("tree", DecisionTreeClassifier), Candidate("b", Broken, {"act": act})
    )
    with pytest.raises(raised):
        store.train(project)
    found = {run.info.run_name: run.info.status for run in store.runs(name)}
    assert found == {"train": "KILLED", "tree": "FINISHED", "b": "KILLED"}
    assert name not in store.models()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("stage", ["fit", "export", "register"])
def test_a_job_is_cancelled_in_its_progress_callback(store: Store, stage: str) -> None:
    def stop(step: Progress) -> None:
        if step.stage == stage:
            raise Cancelled

    name = f"cancelled-{stage}"
    with pytest.raises(Cancelled):
        store.train(churn(name), on_progress=stop)
    assert name not in store.models()
    assert "RUNNING" not in {run.info.status for run in store.runs(name)}


def test_a_custom_signal_handler_is_kept() -> None:
    def mine(number: int, frame: Any) -> None:
        raise AssertionError

    before = signal.signal(signal.SIGTERM, mine)
    try:
        with exit_on_sigterm():
            assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_only_the_main_thread_installs_a_signal_handler() -> None:
    seen = []

    def work() -> None:
        with exit_on_sigterm():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]


def test_if_the_best_cannot_be_served_the_next_is_registered(store: Store) -> None:
    project = churn(
        "refused",
        Candidate("oracle", Oracle),
        Candidate("worse", DecisionTreeClassifier, {"max_depth": 1, "max_features": 1}),
    )
    result = store.train(project)
    assert result.candidate == "worse"
    assert list(result.refused) == ["oracle"]
    oracle = next(r for r in store.runs("refused") if r.info.run_name == "oracle")
    assert oracle.info.status == "FINISHED"
    assert oracle.data.tags["tidemill.export_error"] == result.refused["oracle"]


def test_when_none_can_be_served_the_reasons_are_given(store: Store) -> None:
    with pytest.raises(ExportError, match=r"No candidate of 'none' can be served.* oracle: "):
        store.train(churn("none", Candidate("oracle", Oracle)))
    assert "none" not in store.models()


def prices() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(ROWS, 3)), columns=["a", "b", "c"])
    return frame.assign(price=frame["a"] * 3 + frame["b"] ** 2 + rng.normal(0, 0.1, ROWS))


def test_regression_is_evaluated_by_its_error(store: Store) -> None:
    project = Project(
        "prices",
        data=prices,
        target="price",
        candidates=[
            Candidate("tree", DecisionTreeRegressor, search={"max_depth": [1, 2, 6]}),
            Candidate("ridge", Ridge, search={"alpha": (0.01, 100.0)}, trials=3),
        ],
    )
    result = store.train(project)
    values = [trial.metrics["rmse"] for trial in result.trials]
    assert (result.metric, len(values)) == ("rmse", 6)
    assert result.metrics["rmse"] == min(values)
    files = store.files(result.run_id)
    assert "residuals.png" in files
    assert "confusion_matrix.png" not in files
    assert {"rmse", "mae", "r2"} <= set(result.metrics)


def test_a_tensor_model_is_trained_and_served(store: Store) -> None:
    def images() -> pd.DataFrame:
        rng = np.random.default_rng(0)
        frame = pd.DataFrame(rng.integers(0, 255, (ROWS, 4)).astype("uint8"), columns=list("abcd"))
        return frame.assign(bright=(frame.sum(axis=1) > 510).astype(int))

    project = Project(
        "tensor",
        data=images,
        target="bright",
        tensor=Tensor("image", (4,)),
        candidates=[Candidate("logistic", LogisticRegression, {"max_iter": 2000})],
    )
    result = store.train(project)
    held = store.files(result.run_id)["bundle/manifest.json"].parent
    assert bundle.read(held).signature.tensor == Tensor("image", (4,))
    assert result.metrics["accuracy"] > 0.8


def test_parameters_may_be_set_and_candidates_chosen(store: Store) -> None:
    project = churn(
        "chosen",
        Candidate("logistic", LogisticRegression, search={"C": [0.1, 1.0, 10.0]}),
        Candidate("tree", DecisionTreeClassifier, search={"max_depth": [1, 2, 3, 4]}),
    )
    result = store.train(project, overrides={"logistic": {"C": 0.5}}, only=["logistic"])
    assert [dict(trial.params) for trial in result.trials] == [{"C": 0.5}]
    planned = plan_searches(project, SearchOptions(trials=2), maximize=True)
    assert {name: search.total for name, search in planned.items()} == {"logistic": 2, "tree": 2}


@pytest.mark.parametrize("options", [{"only": ["nope"]}, {"overrides": {"nope": {"C": 1}}}])
def test_an_unknown_candidate_is_refused(store: Store, options: dict[str, Any]) -> None:
    with pytest.raises(ProjectError, match="no candidate 'nope'"):
        store.train(churn("unknown"), **options)


def test_a_fit_that_did_not_converge_is_recorded_with_its_run(store: Store) -> None:
    result = store.train(churn("slow", Candidate("logistic", LogisticRegression, {"max_iter": 1})))
    tags = store.client.get_run(result.run_id).data.tags
    assert tags["tidemill.warnings"].startswith("ConvergenceWarning")
    assert "warnings.txt" in store.files(result.run_id)


def seeded(seed: int = 5, columns: float = 1.0) -> Any:
    return LogisticRegression(C=columns, random_state=seed, verbose=0)


def test_a_parameter_may_have_the_name_of_a_logged_fact(store: Store) -> None:
    project = churn("named", Candidate("logistic", seeded, search={"seed": [7]}))
    params = store.client.get_run(store.train(project).run_id).data.params
    assert (params["seed"], params["rows_test"]) == ("7", "24")
    assert (params["columns"], params["C"]) == ("1.0", "1.0")


def test_autologging_logs_to_the_same_runs(store: Store) -> None:
    # scikit-learn's pipelines have a parameter `verbose` too, of another value.
    project = churn("auto", Candidate("logistic", seeded), autolog=True)
    result = store.train(project)
    runs = store.runs("auto")
    assert [run.info.run_name for run in runs] == ["train", "logistic"]
    assert {"training_accuracy_score", "accuracy"} <= set(runs[1].data.metrics)
    assert {"verbose", "model__verbose", "C", "dataset_name"} <= set(runs[1].data.params)
    experiment = runs[0].info.experiment_id
    assert len(store.client.search_logged_models([experiment])) == 1
    assert result.version == "1"


def test_labelled_feedback_is_used_for_training(store: Store) -> None:
    extra = customers().drop(columns="country").assign(country="NL").tail(30)
    result = store.train(churn("fed"), extra_rows=extra)
    params = store.client.get_run(result.run_id).data.params
    assert int(params["rows_train"]) + int(params["rows_test"]) == ROWS + 30


def test_a_metric_that_needs_probabilities_fails_with_that_reason(store: Store) -> None:
    from sklearn.svm import LinearSVC

    project = churn("sure", Candidate("svm", LinearSVC), gate=Gate(metric="log_loss"))
    with pytest.raises(ProjectError, match="decides by log_loss, which this model does not have"):
        store.train(project)


def test_unusable_data_do_not_start_a_run(store: Store) -> None:
    project = churn("baddata", drop=["outcomes"])
    with pytest.raises(DataError, match="Did you mean 'outcome'"):
        store.train(project)
    assert store.runs("baddata") == []


def test_no_work_is_done_if_mlflow_is_unavailable(tmp_path: Path) -> None:
    def load() -> pd.DataFrame:
        raise AssertionError("the data were loaded for nothing")

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    project = Project("p", data=load, target="y", candidates=[Candidate("a", LogisticRegression)])
    with pytest.raises(UnavailableError, match="cannot be reached"):
        train(project, Tracking(f"http://127.0.0.1:{port}"))
