"""Serves external MLflow models as they are: in a worker process that runs MLflow's pyfunc."""

from __future__ import annotations

import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tidemill.bundle import MODEL_FILES, SIGNATURE, ModelOutputs, Parity
from tidemill.errors import ExportError, UnavailableError
from tidemill.loop.sync.model_signature import make_signature, required_inputs, target_name
from tidemill.loop.sync.pyfunc_supervisor import STOP_SECONDS, start_worker
from tidemill.processes import stop_process
from tidemill.serving.model.remote_runtime import WorkerConnection, read_output
from tidemill.signature import Label, Signature
from tidemill.steps.export.compile import Compiled
from tidemill.steps.export.external_samples import sample_rows
from tidemill.steps.export.external_signature import input_layout, labels_from_output
from tidemill.steps.export.model_io import InputRows, ModelPredictions, input_arrays
from tidemill.stores.mlflow.external_models import ExternalModel

START_SECONDS = 120.0
ANSWER_SECONDS = 60.0


def package_pyfunc(
    model: ExternalModel, folder: Path, tagged: tuple[Label, ...]
) -> tuple[Compiled, Signature, InputRows, ModelPredictions]:
    """Pack the model into a folder, and run it once in a worker like the one that will serve it.

    Args:
        tagged: The labels in the version's tag.

    Returns:
        The compiled form, the signature, and sample rows with the model's predictions.

    Raises:
        ExportError: The model has no signature, cannot be loaded, or fails on rows that fit it.
    """
    inputs = required_inputs(model)
    draft = make_signature(inputs, (), "prediction")
    rows = sample_rows(draft, model.example)
    output = _run_once(model, folder, draft, rows)
    labels = labels_from_output(output, tagged)
    signature = make_signature(inputs, labels, target_name(model))
    _write_archive(model.folder, folder / MODEL_FILES["pyfunc"])
    several_columns = output.ndim == 2 and output.shape[1] > 1
    compiled = Compiled(
        "pyfunc",
        b"",
        input_layout(signature),
        ModelOutputs(
            label="label" if labels and not several_columns else None,
            probabilities="probabilities" if labels and several_columns else None,
            value=None if labels else "value",
        ),
        Parity(len(rows), True, 0.0),
        "MLflow's pyfunc runs it in a process of its own.",
    )
    return compiled, signature, rows, _predictions(output, signature)


def _run_once(model: ExternalModel, folder: Path, signature: Signature, rows: InputRows) -> Any:
    """The model's output for some rows, from a worker process.

    Raises:
        ExportError: The model cannot be loaded, or fails on the rows.
    """
    (folder / SIGNATURE).write_bytes(msgspec.json.encode(signature))
    with tempfile.TemporaryDirectory(prefix="tidemill-") as scratch:
        socket = Path(scratch, "worker.sock")
        process = start_worker(folder, socket, model.folder)
        connection = WorkerConnection(socket, ANSWER_SECONDS)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not socket.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise ExportError(
                        f"Its worker process does not start (exit {process.returncode})."
                    )
                time.sleep(0.05)
            return connection.run(input_arrays(rows, input_layout(signature)))
        except UnavailableError as error:
            raise ExportError(f"Its worker process failed: {error.detail}") from error
        finally:
            connection.close()
            stop_process(process, STOP_SECONDS)


def _predictions(output: Any, signature: Signature) -> ModelPredictions:
    labels, probabilities, values = read_output(output, len(output), signature.labels)
    if values is not None:
        return ModelPredictions(values)
    if labels is None and probabilities is not None:
        labels = probabilities.argmax(axis=1)
    assert labels is not None
    return ModelPredictions(np.array(signature.labels)[labels], labels, probabilities)


def _write_archive(model: Path, target: Path) -> None:
    """Write a folder into an archive that is identical for identical folders."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.mtime = info.uid = info.gid = 0
        info.uname = info.gname = ""
        info.mode = 0o755 if info.isdir() else 0o644
        return info

    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(model.rglob("*")):
            name = path.relative_to(model).as_posix()
            archive.add(path, name, recursive=False, filter=plain)
