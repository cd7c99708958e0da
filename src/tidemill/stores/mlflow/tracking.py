"""Runs in MLflow: started, logged to and ended, without MLflow's process-wide active run.

    tracking = Tracking("sqlite:///.tidemill/mlflow.db", artifact_root=Path(".tidemill/artifacts"))
    with tracking.run("iris-classifier", "train") as run:
        run.log_metrics({"accuracy": 0.97})

A run ends as FINISHED; as FAILED with its traceback when the block raises or `fail` is called; as
KILLED when the process is interrupted. Threads and processes can track runs at the same time.

See decision 011.
"""

from __future__ import annotations

import getpass
import json
import logging
import re
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tidemill.errors import ConflictError, NotFoundError, TidemillError
from tidemill.stores.mlflow.connection import (
    MlflowConnection,
    silence_mlflow_output,
    without_warnings,
)
from tidemill.stores.mlflow.sqlite_store import write_query_statistics

T = TypeVar("T")

logger = logging.getLogger(__name__)

BATCH = 100  # the most parameters or tags that MLflow accepts at once
PARAM_CHARACTERS = 1000
TAG_CHARACTERS = 5000
ERROR_FILE = "error.txt"
ERROR_TAG = "tidemill.error"
PARENT_TAG = "mlflow.parentRunId"
NOTE_TAG = "mlflow.note.content"
VERSIONS_TAG = "mlflow.modelVersions"


@dataclass(frozen=True)
class DatasetUsed:
    """The dataset of a run, as MLflow shows it with the run."""

    name: str
    fingerprint: str
    source: str
    rows: int
    columns: int
    context: str = "training"


class Tracking:
    """Creates runs in an MLflow store.

    Args:
        tracking_uri: MLflow's server or store.
        registry_uri: MLflow's registry; None means the tracking store.
        artifact_root: A folder or URI for the artifacts of new experiments; ignored for a server,
            which chooses its own.

    Every method raises UnavailableError within seconds if MLflow cannot be reached.
    """

    def __init__(
        self,
        tracking_uri: str,
        registry_uri: str | None = None,
        *,
        artifact_root: Path | str | None = None,
    ) -> None:
        self.tracking_uri = tracking_uri
        self._artifact_root = artifact_root
        self._connection = MlflowConnection(tracking_uri, registry_uri)
        self._silenced = False

    def call(self, request: Callable[[Any], T]) -> T:
        """Return the result of `request(client)`, raising Tidemill's errors for MLflow's."""
        if not self._silenced:
            with without_warnings():  # from what MLflow imports when it opens its store
                silence_mlflow_output()
                self._connection.call(lambda client: client.tracking_uri)
            self._silenced = True
        return self._connection.call(request)

    def experiment(self, name: str) -> str:
        """Return the id of the experiment, created if missing and restored if deleted."""
        found = self.call(lambda client: client.get_experiment_by_name(name))
        if found is None:
            return self._new_experiment(name)
        if found.lifecycle_stage == "deleted":
            self.call(lambda client: client.restore_experiment(found.experiment_id))
        return str(found.experiment_id)

    def _new_experiment(self, name: str) -> str:
        location = self._artifact_location(name)
        try:
            created = str(self.call(lambda client: client.create_experiment(name, location)))
            write_query_statistics(self.tracking_uri)
            return created
        except ConflictError:  # another process was faster
            found = self.call(lambda client: client.get_experiment_by_name(name))
            if found is None:
                raise
            return str(found.experiment_id)

    def _artifact_location(self, name: str) -> str | None:
        root = self._artifact_root
        if root is None or urlsplit(self.tracking_uri).scheme in ("http", "https"):
            return None
        base = root.absolute().as_uri() if isinstance(root, Path) else root.rstrip("/")
        # Experiments whose names differ only in special characters share a folder; runs do not.
        return f"{base}/{re.sub('[^A-Za-z0-9._-]', '_', name).strip('.') or '_'}"

    @contextmanager
    def run(
        self,
        experiment: str,
        name: str,
        *,
        parent: TrackedRun | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Iterator[TrackedRun]:
        """Start a run that ends with the block.

        Args:
            experiment: The experiment's name; ignored with a parent, whose experiment is used.
            parent: The run that the new one is nested under.
        """
        experiment_id = parent.experiment_id if parent else self.experiment(experiment)
        run = self._open(experiment_id, name, parent, tags or {})
        try:
            yield run
        except Exception as error:
            run.fail(error)
            run.end()
            raise
        except BaseException:  # interrupted: Ctrl-C, SIGTERM, a cancelled job
            run.end("KILLED")
            raise
        else:
            run.end()

    def _open(
        self, experiment_id: str, name: str, parent: TrackedRun | None, tags: Mapping[str, str]
    ) -> TrackedRun:
        system = {
            "mlflow.user": _user(),
            "mlflow.source.name": "tidemill train",
            "mlflow.source.type": "LOCAL",
        }
        if parent:
            system[PARENT_TAG] = parent.id
        cut = {key: value[:TAG_CHARACTERS] for key, value in {**system, **tags}.items()}
        entity = self.call(lambda client: client.create_run(experiment_id, tags=cut, run_name=name))
        return TrackedRun(self, entity.info.run_id, experiment_id, name)

    def reopen(self, run_id: str) -> TrackedRun:
        """Return a run that has ended, to log more to it; its status does not change."""
        entity = self.call(lambda client: client.get_run(run_id))
        return TrackedRun(self, run_id, entity.info.experiment_id, entity.info.run_name or run_id)

    def register(
        self,
        name: str,
        *,
        source: str,
        run_id: str,
        model_id: str | None,
        description: str,
        version_description: str,
        tags: Mapping[str, str],
    ) -> str:
        """Register a logged model as the next version of a model, in one step with all its tags.

        The registered model is created if it does not exist, and deleted again if creating the
        version fails or is interrupted.

        Returns:
            The version's number.
        """
        created = self._create_model(name, description)
        cut = {key: value[:TAG_CHARACTERS] for key, value in tags.items()}
        try:
            version = self.call(
                lambda client: client.create_model_version(
                    name,
                    source,
                    run_id,
                    tags=cut,
                    description=version_description,
                    model_id=model_id,
                )
            )
        except BaseException:
            if created:
                self._delete_if_empty(name)
            raise
        if model_id is not None:
            self._link_model(model_id, name, str(version.version))
        return str(version.version)

    def _link_model(self, model_id: str, name: str, version: str) -> None:
        """Link the logged model's page to its version, as MLflow's own registration does."""
        versions = json.dumps([{"name": name, "version": version}])
        try:
            self.call(
                lambda client: client.set_logged_model_tags(model_id, {VERSIONS_TAG: versions})
            )
        except TidemillError:
            logger.warning("Version %s of '%s' is not linked from its logged model", version, name)

    def _create_model(self, name: str, description: str) -> bool:
        try:
            self.call(lambda client: client.get_registered_model(name))
        except NotFoundError:
            pass
        else:
            return False
        try:
            self.call(lambda client: client.create_registered_model(name, description=description))
        except ConflictError:  # another process was faster
            return False
        return True

    def _delete_if_empty(self, name: str) -> None:
        try:
            if not self.call(lambda client: client.search_model_versions(f"name = '{name}'")):
                self.call(lambda client: client.delete_registered_model(name))
        except TidemillError:
            logger.warning("The empty registered model '%s' could not be removed", name)


class TrackedRun:
    """A run in MLflow.

    Attributes:
        tracking: The store that the run is in.
        failed: Whether `fail` was called; the run then ends as FAILED.
    """

    def __init__(self, tracking: Tracking, run_id: str, experiment_id: str, name: str) -> None:
        self.id = run_id
        self.experiment_id = experiment_id
        self.name = name
        self.failed = False
        self.tracking = tracking

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters as strings; long ones are cut."""
        from mlflow.entities import Param

        entities = [Param(key, _cut(value)) for key, value in params.items()]
        self._log_batches("params", entities)

    def params(self) -> dict[str, str]:
        """Return the parameters logged so far."""
        return dict(self.tracking.call(lambda client: client.get_run(self.id)).data.params)

    def log_metrics(self, metrics: Mapping[str, float], *, model_id: str | None = None) -> None:
        """Log metrics; with `model_id`, as metrics of that logged model too."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entities = [
            Metric(key, float(value), now, 0, model_id=model_id, run_id=self.id)
            for key, value in metrics.items()
        ]
        self._log_batches("metrics", entities)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags; long values are cut."""
        from mlflow.entities import RunTag

        entities = [RunTag(key, str(value)[:TAG_CHARACTERS]) for key, value in tags.items()]
        self._log_batches("tags", entities)

    def _log_batches(self, kind: str, entities: Sequence[Any]) -> None:
        for start in range(0, len(entities), BATCH):
            self._log_batch(kind, list(entities[start : start + BATCH]))

    def _log_batch(self, kind: str, entities: list[Any]) -> None:
        self.tracking.call(lambda client: client.log_batch(self.id, **{kind: entities}))

    def log_data(self, data: DatasetUsed) -> None:
        """Log which dataset the run used."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=data.name,
            digest=data.fingerprint[:32],
            source_type="tidemill",
            source=json.dumps({"source": data.source}),
            profile=json.dumps({"num_rows": data.rows, "num_columns": data.columns}),
        )
        entity = DatasetInput(dataset, [InputTag("mlflow.data.context", data.context)])
        self.tracking.call(lambda client: client.log_inputs(self.id, [entity]))

    def log_files(self, files: Mapping[str, bytes]) -> None:
        """Store files as artifacts, by their path in the run, in one upload."""
        with tempfile.TemporaryDirectory(prefix="tidemill-") as folder:
            for path, content in files.items():
                file = Path(folder, path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
            self.log_folder(Path(folder))

    def log_folder(self, folder: Path, path: str | None = None) -> None:
        """Store all files of a local folder as artifacts under `path`."""
        self.tracking.call(lambda client: client.log_artifacts(self.id, str(folder), path))

    def fail(self, error: BaseException) -> None:
        """Record an error; the run ends as FAILED."""
        self.failed = True
        text = "".join(traceback.format_exception(error))
        try:
            self.set_tags({ERROR_TAG: f"{type(error).__name__}: {error}"[:500]})
            self.log_files({ERROR_FILE: text.encode()})
        except TidemillError:
            logger.warning("The error of run %s could not be recorded", self.id, exc_info=True)

    def end(self, status: str | None = None) -> None:
        """End the run, by default as FINISHED, or as FAILED after `fail`.

        If MLflow cannot be reached that is only logged, so that it does not hide why a run ends.
        """
        status = status or ("FAILED" if self.failed else "FINISHED")
        try:
            self.tracking.call(lambda client: client.set_terminated(self.id, status))
        except TidemillError:
            logger.warning("Run %s could not be ended as %s", self.id, status, exc_info=True)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the user of a container may have no name
        return "unknown"


def _cut(value: Any) -> str:
    text = str(value)
    return text if len(text) <= PARAM_CHARACTERS else text[: PARAM_CHARACTERS - 1] + "…"
