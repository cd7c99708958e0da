"""Pruned trials in runs, results and output, also in a distributed training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.worker.test_sweep import claimed
from tidemill.cli.training import show_result
from tidemill.loop.training.train import train
from tidemill.loop.training.trial import TrialOutcome, all_trials_failed
from tidemill.platform import Platform
from tidemill.project import load_project
from tidemill.settings import Settings
from tidemill.steps.search.pruning import Pruning
from tidemill.steps.search.search import Trial
from tidemill.stores.database.database import Database
from tidemill.stores.jobs.jobs import Job, NewJob
from tidemill.stores.mlflow.tracking import Tracking
from tidemill.worker.job_kinds import WaitForChildren
from tidemill.worker.sweep import run_trial
from tidemill.worker.training import run_train

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]

PROJECT = """
import pandas as pd
from sklearn.datasets import make_classification
from sklearn.neural_network import MLPClassifier
from tidemill import Candidate, Project


def rows():
    X, y = make_classification(1400, 6, n_informative=4, random_state=1)
    return pd.DataFrame(X, columns=list("abcdef")).assign(target=y)


project = Project(
    name="pruned",
    data=rows,
    target="target",
    candidates=[
        Candidate(
            "net",
            MLPClassifier,
            {"hidden_layer_sizes": (8,), "max_iter": 20},
            # Five that learn, and five that stay as they began.
            search={
                "learning_rate_init": [0.03, 0.025, 0.02, 0.015, 0.01, 1e-6, 1e-7, 1e-8, 1e-9],
                "alpha": [1e-4, 1e-3],
            },
            trials=12,
        )
    ],
)
"""


@pytest.fixture
def project_file(mlflow_home: Path) -> Path:
    path = mlflow_home / "pruned.py"
    path.write_text(PROJECT)
    return path


def runs_of(client: Any) -> list[Any]:
    found = client.search_runs([client.get_experiment_by_name("pruned").experiment_id])
    return [run for run in found if run.data.tags["tidemill.kind"] == "trial"]


def check_runs(client: Any) -> int:
    """Pruned runs are marked and have no metrics, the others have; how many are pruned."""
    runs = runs_of(client)
    gone = [run for run in runs if "tidemill.pruned" in run.data.tags]
    for run in gone:
        assert run.data.tags["tidemill.pruned"].startswith("step ")
        assert ": f1_score 0." in run.data.tags["tidemill.pruned"]
        assert "tidemill.error" not in run.data.tags
        assert run.data.metrics == {}
        assert float(run.data.params["learning_rate_init"])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert all("f1_score" in run.data.metrics for run in runs if run not in gone)
    return len(gone)


def test_a_pruned_trial_is_neither_a_success_nor_a_failure(
    project_file: Path, mlflow_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{mlflow_home / 'mlflow.db'}"
    project = load_project(project_file)
    result = train(project, Tracking(uri, artifact_root=mlflow_home / "artifacts"))
    client = Tracking(uri).call(lambda client: client)
    gone = [trial for trial in result.trials if trial.pruned is not None]
    assert len(result.trials) == 12
    assert 1 <= len(gone) == result.pruned == check_runs(client)
    assert result.failures == {}
    assert result.run_id not in {trial.run_id for trial in gone}
    values = [trial.metrics["f1_score"] for trial in result.trials if trial.metrics]
    assert result.metrics["f1_score"] == max(values)
    parent = client.get_run(result.sweep_id)
    assert parent.data.tags["mlflow.note.content"].endswith(f"12 trials, {len(gone)} pruned.")
    kept = client.download_artifacts(result.sweep_id, "best_model_metrics.json")
    listed = [c for c in json.loads(Path(kept).read_text())["candidates"] if "pruned" in c]
    assert [c["name"] for c in listed] == [trial.name for trial in gone]
    show_result(result)
    printed = capsys.readouterr().out
    assert f"12 trials, {len(gone)} pruned" in printed
    assert gone[0].name + " " not in printed


def test_a_training_whose_trials_were_all_pruned_fails_with_that_reason(project_file: Path) -> None:
    """A search never does that; a study that somebody filled by hand might."""
    trial = Trial("net", 1, 12, {})
    outcome = TrialOutcome(trial, "run", pruned=Pruning(6, "f1_score", 0.2))
    error = all_trials_failed(load_project(project_file), [outcome, outcome])
    assert str(error).startswith("No candidate of 'pruned' could be trained. net: pruned")


@pytest.fixture
def platform(database: Database, project_file: Path, mlflow_home: Path) -> Iterator[Platform]:
    url = database.engine.url.render_as_string(hide_password=False)
    opened = Platform.open(Settings(home=mlflow_home, database_url=url))
    yield opened
    opened.close()


def run_part(platform: Platform, part: Job) -> dict[str, Any]:
    job = claimed(platform, part.id)
    result = run_trial(platform, job, lambda _: None)
    platform.jobs.succeed(job, result)
    return result


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_trials_of_a_distributed_training_are_pruned_by_one_study(
    platform: Platform, project_file: Path
) -> None:
    job_id = platform.submit(NewJob("train", "pruned", str(project_file), {}))[0].id
    job = claimed(platform, job_id)
    with pytest.raises(WaitForChildren):
        run_train(platform, job, lambda _: None)
    platform.jobs.wait_for_children(job, "trials")
    parts = platform.jobs.children(job_id)
    results = [run_part(platform, part) for part in parts[:-1]]
    gone = [result for result in results if result["pruned"]]
    assert 1 <= len(gone) == check_runs(platform.tracking)
    assert all(result["value"] is None and result["error"] is None for result in gone)
    # The last worker dies after its trial and before its row says so: the trial is run again.
    lost = claimed(platform, parts[-1].id)
    run_trial(platform, lost, lambda _: None)
    platform.jobs.retry_later(lost, {}, delay=0, counts=False)
    run_part(platform, parts[-1])
    assert {part.state for part in platform.jobs.children(job_id)} == {"succeeded"}
    platform.jobs.resume_parents()
    settled = run_train(platform, claimed(platform, job_id), lambda _: None)
    assert settled["version"] == "1"
    values = [run.data.metrics.get("f1_score", 0.0) for run in runs_of(platform.tracking)]
    assert settled["metrics"]["f1_score"] == pytest.approx(max(values))
    note = platform.tracking.search_runs(
        [platform.tracking.get_experiment_by_name("pruned").experiment_id],
        "tags.`tidemill.kind` = 'sweep'",
    )[0].data.tags["mlflow.note.content"]
    assert "12 trials, " in note
