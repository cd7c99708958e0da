"""Logs a fitted pipeline as an MLflow model, which `mlflow.pyfunc.load_model` can load.

It is saved with skops, which loads without unpickling, where skops supports it; else with
cloudpickle.
"""

from __future__ import annotations

import importlib.metadata
import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tidemill.errors import ExportError, TidemillError
from tidemill.signature import Column, Signature
from tidemill.stores.mlflow.connection import without_warnings
from tidemill.stores.mlflow.tracking import TrackedRun

logger = logging.getLogger(__name__)

MODEL_NAME = "model"
EXAMPLE_ROWS = 3
#: A logged model takes datetimes as whole seconds since 1970 (UTC).
_TYPES = {
    "number": "double", "integer": "long", "boolean": "boolean", "text": "string",
    "datetime": "double",
}  # fmt: skip
_ALWAYS_NEEDED = ("mlflow", "scikit-learn", "numpy", "pandas")
_PROJECT_MODULES = "tidemill_project_"
_NOT_IMPORTABLE = (_PROJECT_MODULES, "__main__")


@dataclass(frozen=True)
class LoggedModel:
    """A model logged to MLflow: its id, its URI, and its format, "skops" or "cloudpickle"."""

    id: str
    source: str
    format: str


def log_model(
    run: TrackedRun,
    model: Any,
    signature: Signature,
    example: Any,
    *,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
) -> LoggedModel:
    """Log a fitted pipeline as the run's MLflow model, under the name "model".

    Args:
        example: Rows in the model's input format; the first few are saved with it.
        params, metrics: Shown on the model's page, as on the run's.

    Raises:
        ExportError: Neither skops nor cloudpickle can save the model.
    """
    tracking = run.tracking
    shown = {key: str(value)[:250] for key, value in params.items()}
    entity = tracking.call(
        lambda client: client.create_logged_model(
            run.experiment_id, MODEL_NAME, source_run_id=run.id, params=shown
        )
    )
    try:
        with tempfile.TemporaryDirectory(prefix="tidemill-") as folder:
            path = Path(folder, MODEL_NAME)
            form = _save_or_raise(model, signature, example, path, run, entity)
            tracking.call(lambda client: client.log_model_artifacts(entity.model_id, str(path)))
    except BaseException:
        with suppress(TidemillError):  # the first error is the one to report
            tracking.call(lambda client: client.finalize_logged_model(entity.model_id, "FAILED"))
        raise
    tracking.call(lambda client: client.finalize_logged_model(entity.model_id, "READY"))
    tracking.call(lambda client: client.log_outputs(run.id, [_output(entity.model_id)]))
    run.log_metrics(metrics, model_id=entity.model_id)
    return LoggedModel(entity.model_id, entity.artifact_location, form)


def _save_or_raise(
    model: Any, signature: Signature, example: Any, path: Path, run: TrackedRun, entity: Any
) -> str:
    """Write the MLflow model's folder and return its format."""
    try:
        return _save(model, signature, example, path, run, entity)
    except Exception as error:  # pickling runs the model's own code
        raise ExportError(
            f"MLflow cannot save {type(model).__name__}: {type(error).__name__}: {error}",
            remedy="Remove what cannot be pickled, such as open files, locks and connections.",
        ) from error


def _output(model_id: str) -> Any:
    from mlflow.entities import LoggedModelOutput

    return LoggedModelOutput(model_id, step=0)


def _save(
    model: Any, signature: Signature, example: Any, path: Path, run: TrackedRun, entity: Any
) -> str:
    import mlflow.sklearn
    from mlflow.models import Model

    trusted = skops_types(model)
    form = "cloudpickle" if trusted is None else "skops"
    described = Model(
        artifact_path=entity.artifact_location,
        model_uuid=entity.model_id,
        run_id=run.id,
        model_id=entity.model_id,
    )
    with without_warnings(), _project_code_by_value():
        mlflow.sklearn.save_model(
            model,
            str(path),
            mlflow_model=described,
            serialization_format=form,
            skops_trusted_types=trusted,
            signature=mlflow_signature(signature),
            input_example=example[:EXAMPLE_ROWS],
            pip_requirements=requirements(model, form),
        )
    logger.debug("The model of run %s is saved with %s", run.id, form)
    return form


def skops_types(model: Any) -> list[str] | None:
    """Return the types that skops must trust to load the model back.

    None if skops cannot save the model, or only by naming code that cannot be imported elsewhere:
    lambdas, and what a project file or an interactive session defines.
    """
    import skops.io

    try:
        content = skops.io.dumps(model)
        types: list[str] = skops.io.get_untrusted_types(data=content)
        skops.io.loads(content, trusted=types)
    except Exception as error:  # the model's own parts can raise anything
        logger.debug("skops cannot save %s: %s", type(model).__name__, error)
        return None
    return None if any(name.startswith(_NOT_IMPORTABLE) for name in types) else types


@contextmanager
def _project_code_by_value() -> Iterator[None]:
    """Pickle code defined in a project file into the model: it cannot be imported elsewhere."""
    import cloudpickle  # type: ignore[import-untyped]

    modules = [
        module for name, module in list(sys.modules.items()) if name.startswith(_PROJECT_MODULES)
    ]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def mlflow_signature(signature: Signature) -> Any:
    """Convert a signature to MLflow's ModelSignature."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    if signature.tensor is not None:
        tensor = signature.tensor
        # Without a name: a named tensor must come as a dictionary, which the model cannot take.
        inputs = Schema([TensorSpec(np.dtype(tensor.dtype), (-1, *tensor.shape))])
    else:
        inputs = Schema([ColSpec(_type_of(column), column.name) for column in signature.columns])
    return ModelSignature(inputs, Schema([ColSpec(_answer_type(signature))]))


def _type_of(column: Column) -> str:
    """Return a column's MLflow type; nullable booleans and integers become numbers with NaN."""
    return "double" if column.nullable and column.kind != "text" else _TYPES[column.kind]


def _answer_type(signature: Signature) -> str:
    if signature.task == "regression":
        return "double"
    kinds = {bool: "boolean", int: "long", float: "double", str: "string"}
    return kinds[type(signature.labels[0])]


def requirements(model: Any, form: str) -> list[str]:
    """Return the packages needed to load the model, pinned to the versions it was trained with.

    Listed here because MLflow would find them by loading the model in another process.
    """
    names = dict.fromkeys([*_ALWAYS_NEEDED, form, *_packages_of(model)])
    return [f"{name}=={importlib.metadata.version(name)}" for name in names]


def _packages_of(model: Any) -> Sequence[str]:
    """Return the packages of the pipeline's steps, except those always needed."""
    steps = [step for _, step in getattr(model, "steps", [("model", model)])]
    modules = {type(part).__module__.split(".")[0] for step in steps for part in _parts(step)}
    modules -= {"sklearn", "builtins", "numpy", "__main__", "tidemill"}
    if not modules:
        return []
    known = _distributions()
    found = {known[module][0] for module in modules if module in known}
    if "skorch" in modules:
        found.add("torch")
    return sorted(found)


@cache
def _distributions() -> Mapping[str, Sequence[str]]:
    """Map modules to packages; takes seconds where many packages are installed."""
    return importlib.metadata.packages_distributions()


def _parts(step: Any) -> Iterator[Any]:
    yield step
    if hasattr(step, "get_params"):
        yield from (value for value in step.get_params(deep=True).values() if value is not None)
