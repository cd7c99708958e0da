"""Runs in a real MLflow store: logged to, ended with the right status, safe with threads."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from tidemill.errors import UnavailableError
from tidemill.stores.mlflow.tracking import DatasetUsed, TrackedRun, Tracking


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("mlflow")
    return f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts"


@pytest.fixture
def tracking(store: tuple[str, Path]) -> Tracking:
    return Tracking(store[0], artifact_root=store[1])


def info(tracking: Tracking, run: TrackedRun) -> Any:
    return tracking.call(lambda client: client.get_run(run.id))


def content(tracking: Tracking, run: TrackedRun, path: str, tmp_path: Path) -> str:
    file = tracking.call(lambda client: client.download_artifacts(run.id, path, str(tmp_path)))
    return Path(file).read_text()


def test_a_run_has_what_was_logged_and_ends_finished(tracking: Tracking, tmp_path: Path) -> None:
    with tracking.run("exp", "one", tags={"colour": "red"}) as run:
        run.log_params({"C": 0.5, "penalty": None})
        run.log_metrics({"accuracy": 0.9})
        run.set_tags({"more": "yes"})
        run.log_files({"a.txt": b"top", "deep/er/b.txt": b"below"})
        run.log_data(DatasetUsed("table", "f" * 64, "csv:x.csv", 10, 3))
    found = info(tracking, run)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "one"
    assert found.data.params == {"C": "0.5", "penalty": "None"}
    assert found.data.metrics == {"accuracy": 0.9}
    assert {"colour": "red", "more": "yes"}.items() <= found.data.tags.items()
    assert content(tracking, run, "deep/er/b.txt", tmp_path) == "below"
    (dataset,) = found.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("table", "f" * 32)
    assert json.loads(dataset.dataset.profile) == {"num_rows": 10, "num_columns": 3}


def test_an_error_ends_a_run_failed_with_its_traceback(tracking: Tracking, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), tracking.run("exp", "bad") as run:
        raise ZeroDivisionError("division by zero")
    found = info(tracking, run)
    assert found.info.status == "FAILED"
    assert found.data.tags["tidemill.error"] == "ZeroDivisionError: division by zero"
    text = content(tracking, run, "error.txt", tmp_path)
    assert "Traceback" in text
    assert "test_tracking.py" in text


def test_a_recorded_error_ends_a_run_failed_without_raising(tracking: Tracking) -> None:
    with tracking.run("exp", "bad") as run:
        run.fail(ValueError("no"))
    assert info(tracking, run).info.status == "FAILED"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_run_ends_killed(tracking: Tracking, stop: type[BaseException]) -> None:
    with pytest.raises(stop), tracking.run("exp", "stopped") as run:
        raise stop
    assert info(tracking, run).info.status == "KILLED"


def test_an_mlflow_outage_does_not_hide_why_a_run_ended(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*args: Any, **kwargs: Any) -> None:
        raise OSError("connection lost")

    monkeypatch.setattr(mlflow.MlflowClient, "set_terminated", gone)
    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", gone)
    with pytest.raises(ZeroDivisionError), tracking.run("exp", "bad"):
        raise ZeroDivisionError


def test_a_nested_run_names_its_parent(tracking: Tracking) -> None:
    with tracking.run("exp", "parent") as parent, tracking.run("x", "c", parent=parent) as child:
        pass
    found = info(tracking, child)
    assert found.data.tags["mlflow.parentRunId"] == parent.id
    assert found.info.experiment_id == parent.experiment_id


def test_many_parameters_and_long_values_fit(tracking: Tracking) -> None:
    with tracking.run("exp", "many", tags={"long": "x" * 9000}) as run:
        run.log_params({f"p{i}": "v" * 3000 for i in range(250)})
        run.log_metrics({f"m{i}": i for i in range(250)})
    found = info(tracking, run)
    assert (len(found.data.params), len(found.data.metrics)) == (250, 250)
    assert found.data.params["p0"].endswith("…")


@pytest.mark.parametrize(
    ("name", "folder"),
    [("a name/with: all", "a_name_with__all"), ("..", "_"), ("iris-2", "iris-2")],
)
def test_artifacts_are_stored_under_the_experiments_name(
    tracking: Tracking, store: tuple[str, Path], name: str, folder: str
) -> None:
    with tracking.run(name, "one") as run:
        run.log_files({"x.txt": b""})
    assert [p.name for p in store[1].glob(f"{folder}/{run.id}/artifacts/*")] == ["x.txt"]


def test_a_server_chooses_its_own_artifact_location(tmp_path: Path) -> None:
    remote = Tracking("http://127.0.0.1:1", artifact_root=tmp_path)
    assert remote._artifact_location("exp") is None
    assert Tracking("sqlite://", artifact_root="s3://b/x/")._artifact_location("e") == "s3://b/x/e"


def test_a_deleted_experiment_is_restored(tracking: Tracking) -> None:
    first = tracking.experiment("gone")
    tracking.call(lambda client: client.delete_experiment(first))
    assert tracking.experiment("gone") == first
    with tracking.run("gone", "again"):
        pass


def together(count: int, work: Callable[[int], None]) -> None:
    """Run `work` in threads that start at the same moment; raise the first error."""
    barrier, errors = threading.Barrier(count), list[BaseException]()

    def start(number: int) -> None:
        barrier.wait()
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=start, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        raise error


def test_threads_create_one_experiment_and_keep_their_runs_apart(
    store: tuple[str, Path],
) -> None:
    runs: dict[int, str] = {}
    tracking = Tracking(store[0], artifact_root=store[1])
    tracking.experiment("warm")

    def work(number: int) -> None:
        with tracking.run("shared", f"run {number}") as run:
            run.log_params({"number": number})
            runs[number] = run.id

    together(4, work)
    found = {n: tracking.call(lambda client, r=r: client.get_run(r)) for n, r in runs.items()}
    assert {n: run.data.params["number"] for n, run in found.items()} == {
        n: str(n) for n in range(4)
    }
    assert len({run.info.experiment_id for run in found.values()}) == 1


def test_an_unreachable_server_fails_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UnavailableError, match=f"127.0.0.1:{port} cannot be reached"):
        Tracking(f"http://127.0.0.1:{port}").experiment("exp")


def test_mlflow_prints_nothing_on_the_console(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tracking = Tracking(f"sqlite:///{tmp_path / 'mlflow.db'}", artifact_root=tmp_path / "a")
    with tracking.run("exp", "quiet") as run:
        run.log_files({"x.txt": b""})
    assert capfd.readouterr() == ("", "")


def register(tracking: Tracking, run: TrackedRun, name: str, **more: Any) -> str:
    given = {"source": f"runs:/{run.id}/model", "run_id": run.id, "model_id": None}
    words = {"description": "What it is.", "version_description": "How good.", "tags": {"a": "b"}}
    return tracking.register(name, **{**given, **words, **more})


def test_a_version_is_registered_with_all_its_tags(tracking: Tracking) -> None:
    with tracking.run("exp", "one") as run:
        run.log_files({"model/MLmodel": b""})
    assert [register(tracking, run, "new"), register(tracking, run, "new")] == ["1", "2"]
    model = tracking.call(lambda client: client.get_registered_model("new"))
    version = tracking.call(lambda client: client.get_model_version("new", "1"))
    assert model.description == "What it is."
    assert (version.description, version.tags, version.run_id) == ("How good.", {"a": "b"}, run.id)


@pytest.fixture
def broken(tracking: Tracking, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tracking]:
    """A store interrupted just before the version is created."""
    tracking.experiment("exp")

    def stop(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(mlflow.MlflowClient, "create_model_version", stop)
    return tracking


def test_an_interrupted_registration_leaves_no_empty_model(broken: Tracking) -> None:
    with broken.run("exp", "one") as run:
        pass
    with pytest.raises(KeyboardInterrupt):
        register(broken, run, "half")
    names = [m.name for m in broken.call(lambda client: client.search_registered_models())]
    assert "half" not in names
