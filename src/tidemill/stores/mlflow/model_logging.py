"""A fitted pipeline as an MLflow model that `mlflow.pyfunc.load_model` loads.

It is kept through skops where that can hold it, which unpickles nothing; else through cloudpickle.
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
from tidemill.stores.mlflow.tracking import TrackedRun, Tracking

logger = logging.getLogger(__name__)

MODEL_NAME = "model"
EXAMPLE_ROWS = 3
_TYPES = {"number": "double", "integer": "long", "boolean": "boolean", "text": "string"}
_ALWAYS_NEEDED = ("mlflow", "scikit-learn", "numpy", "pandas")
_PROJECT_MODULES = "tidemill_project_"
_NOT_IMPORTABLE = (_PROJECT_MODULES, "__main__")


@dataclass(frozen=True)
class LoggedModel:
    """A model kept in MLflow: its id, where it is, and the format it was kept in."""

    id: str
    source: str
    format: str


def log_model(
    tracking: Tracking,
    run: TrackedRun,
    model: Any,
    signature: Signature,
    example: Any,
    *,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
) -> LoggedModel:
    """Keep a fitted pipeline as the run's MLflow model, under the name "model".

    Args:
        example: Rows as the model takes them; the first few are kept with it.
        params, metrics: Shown on the model's page, as on the run's.

    Raises:
        ExportError: Neither skops nor cloudpickle can hold the model.
    """
    shown = {key: str(value)[:250] for key, value in params.items()}
    entity = tracking.call(
        lambda client: client.create_logged_model(
            run.experiment_id, MODEL_NAME, source_run_id=run.id, params=shown
        )
    )
    try:
        with tempfile.TemporaryDirectory(prefix="tidemill-") as folder:
            place = Path(folder, MODEL_NAME)
            form = _saved(model, signature, example, place, run, entity)
            tracking.call(lambda client: client.log_model_artifacts(entity.model_id, str(place)))
    except BaseException:
        with suppress(TidemillError):  # what went wrong first is what matters
            tracking.call(lambda client: client.finalize_logged_model(entity.model_id, "FAILED"))
        raise
    tracking.call(lambda client: client.finalize_logged_model(entity.model_id, "READY"))
    tracking.call(lambda client: client.log_outputs(run.id, [_output(entity.model_id)]))
    run.log_metrics(metrics, model_id=entity.model_id)
    return LoggedModel(entity.model_id, entity.artifact_location, form)


def _saved(
    model: Any, signature: Signature, example: Any, place: Path, run: TrackedRun, entity: Any
) -> str:
    """Write the MLflow model's folder; gives the format it was kept in."""
    try:
        return _save(model, signature, example, place, run, entity)
    except Exception as error:  # pickling runs the model's own code
        raise ExportError(
            f"MLflow cannot keep {type(model).__name__}: {type(error).__name__}: {error}",
            remedy="Leave out what cannot be pickled, such as open files, locks and connections.",
        ) from error


def _output(model_id: str) -> Any:
    from mlflow.entities import LoggedModelOutput

    return LoggedModelOutput(model_id, step=0)


def _save(
    model: Any, signature: Signature, example: Any, place: Path, run: TrackedRun, entity: Any
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
            str(place),
            mlflow_model=described,
            serialization_format=form,
            skops_trusted_types=trusted,
            signature=mlflow_signature(signature),
            input_example=example[:EXAMPLE_ROWS],
            pip_requirements=requirements(model, form),
        )
    logger.debug("The model of run %s is kept through %s", run.id, form)
    return form


def skops_types(model: Any) -> list[str] | None:
    """The types that skops has to be told to trust in order to load the model back.

    None when skops cannot hold it, or only by naming code that nobody else can import: lambdas, and
    what a project file or an interactive session defines.
    """
    import skops.io

    try:
        content = skops.io.dumps(model)
        types: list[str] = skops.io.get_untrusted_types(data=content)
        skops.io.loads(content, trusted=types)
    except Exception as error:  # skops raises whatever the model's own parts do
        logger.debug("skops cannot hold %s: %s", type(model).__name__, error)
        return None
    return None if any(name.startswith(_NOT_IMPORTABLE) for name in types) else types


@contextmanager
def _project_code_by_value() -> Iterator[None]:
    """Pickle what a project file defines into the model: nobody else can import that file."""
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
    """The same contract in MLflow's words."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    if signature.tensor is not None:
        tensor = signature.tensor
        # Without a name: a named one must come as a dictionary, which the model would not take.
        inputs = Schema([TensorSpec(np.dtype(tensor.dtype), (-1, *tensor.shape))])
    else:
        inputs = Schema([ColSpec(_type_of(column), column.name) for column in signature.columns])
    return ModelSignature(inputs, Schema([ColSpec(_answer_type(signature))]))


def _type_of(column: Column) -> str:
    """Booleans and integers that may be missing reach the model as numbers with NaN."""
    return "double" if column.nullable and column.kind != "text" else _TYPES[column.kind]


def _answer_type(signature: Signature) -> str:
    if signature.task == "regression":
        return "double"
    kinds = {bool: "boolean", int: "long", float: "double", str: "string"}
    return kinds[type(signature.labels[0])]


def requirements(model: Any, form: str) -> list[str]:
    """What has to be installed to load the model, at the versions it was made with.

    Named here, because MLflow would find out by loading the model in another process.
    """
    wanted = dict.fromkeys([*_ALWAYS_NEEDED, form, *_packages_of(model)])
    return [f"{name}=={importlib.metadata.version(name)}" for name in wanted]


def _packages_of(model: Any) -> Sequence[str]:
    """The packages that the pipeline's steps come from, other than the ones always needed."""
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
    """Which packages give which modules: seconds of reading, where much is installed."""
    return importlib.metadata.packages_distributions()


def _parts(step: Any) -> Iterator[Any]:
    yield step
    if hasattr(step, "get_params"):
        yield from (value for value in step.get_params(deep=True).values() if value is not None)
