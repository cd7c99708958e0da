"""From a project's source to rows that a model can be trained on: load, clean, split."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tidemill.errors import DataError
from tidemill.project import Project, Source, Task
from tidemill.signature import Kind
from tidemill.steps.data.checks import DataWarning
from tidemill.steps.data.clean import clean
from tidemill.steps.data.fingerprint import fingerprint
from tidemill.steps.data.split import Split, split

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedData:
    """Everything that training and the gate need to know about the data.

    Attributes:
        frame: All cleaned rows; `train` and `test` are its two parts.
        signature_rows: Every row up to the end of the training window, from which the signature is
            inferred, so that a model trained on a window does not refuse values that only occur
            outside it. None when `train` is everything there is.
        dates: The formats of the inputs that are dates or times.
    """

    source: str
    task: Task
    inputs: tuple[str, ...]
    kinds: Mapping[str, Kind]
    frame: pd.DataFrame
    train: pd.DataFrame
    test: pd.DataFrame
    warnings: tuple[DataWarning, ...]
    fingerprint: str
    test_fingerprint: str
    signature_rows: pd.DataFrame | None = None
    dates: Mapping[str, str] = field(default_factory=dict)


def prepare(project: Project, *, extra_rows: pd.DataFrame | None = None) -> PreparedData:
    """Load, clean and split a project's rows.

    Args:
        extra_rows: Additional rows, such as labelled feedback, under the project's column names;
            appended at the end.

    Raises:
        DataError: The data cannot be loaded or used; the message gives the reason.
    """
    raw = load_frame(project)
    cleaned = clean(raw, project, extra_rows=extra_rows)
    parts = split(cleaned.frame, project)
    _check_trainable(parts, project, cleaned.task)
    logger.info(
        "%s: %d rows to train on, %d held out", project.name, len(parts.train), len(parts.test)
    )
    return PreparedData(
        source=_source(raw, project),
        task=cleaned.task,
        inputs=cleaned.inputs,
        kinds=cleaned.kinds,
        frame=cleaned.frame,
        train=parts.train,
        test=parts.test,
        warnings=cleaned.warnings,
        fingerprint=fingerprint(cleaned.frame),
        test_fingerprint=fingerprint(parts.test),
        dates=cleaned.dates,
    )


def load_frame(project: Project) -> pd.DataFrame:
    """Load the rows from the project's source.

    Raises:
        DataError: The source did not return a DataFrame, or one without rows.
    """
    data = project.data
    frame = data.load() if isinstance(data, Source) else data()
    if not isinstance(frame, pd.DataFrame):
        raise DataError(
            f"The data function returned {type(frame).__name__}.",
            field="data",
            expected="a pandas DataFrame",
        )
    if frame.empty:
        raise DataError("The data have no rows.", field="data")
    logger.debug("%s: loaded %d rows, %d columns", project.name, *frame.shape)
    return frame


def _source(frame: pd.DataFrame, project: Project) -> str:
    data = project.data
    described = (
        data.describe if isinstance(data, Source) else getattr(data, "__name__", "a function")
    )
    return str(frame.attrs.get("source", described))


def _check_trainable(parts: Split, project: Project, task: Task) -> None:
    """Raise if all training rows are of one class, which can happen without shuffling."""
    if task == "classification" and parts.train[project.target].nunique() < 2:
        raise DataError(
            "The training rows have only one class.",
            field=project.target,
            remedy="Set shuffle=True, or check the order of the rows.",
        )


def input_matrix(
    frame: pd.DataFrame, inputs: Sequence[str], project: Project
) -> pd.DataFrame | npt.NDArray[np.float32]:
    """The model's input: the input columns, or a float32 array [rows, *shape] for a tensor."""
    table = frame[list(inputs)]
    if project.tensor is None:
        return table
    # A copy in row order: pandas' array is transposed and read-only, which PyTorch warns about.
    flat = np.array(table.to_numpy(), dtype=np.float32, order="C")
    return flat.reshape(-1, *project.tensor.shape)


def target_array(frame: pd.DataFrame, project: Project) -> npt.NDArray[Any]:
    """The targets [rows]: texts, integers, booleans or float64."""
    target = frame[project.target]
    plain = target.dtype.kind in "fib"
    return target.to_numpy(copy=True) if plain else _texts(target)


def _texts(values: Iterable[Any]) -> npt.NDArray[Any]:
    return np.array([str(value) for value in values])
