"""What a user writes: a `Project` with its data, its candidate models and its gate.

    from tidemill import Candidate, Gate, Project, csv
    from sklearn.linear_model import LogisticRegression

    project = Project(
        name="churn",
        data=csv("data/churn.csv"),
        target="churned",
        candidates=[Candidate("logistic", LogisticRegression, search={"C": [0.1, 1, 10]})],
        gate=Gate(metric="f1_score", minimum={"f1_score": 0.7}),
    )

A project only stores and checks its settings; `tidemill.loop` acts on them. Importing this module
loads neither pandas nor scikit-learn.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tidemill.datetimes import DIRECTIVES, EPOCHS, ISO, ZONED, DateError, check_format
from tidemill.errors import ProjectError
from tidemill.metrics import METRICS, default_metric, metrics_of
from tidemill.policies import Challenge, Contest, Decay, Drift, Retraining
from tidemill.signature import Task, Tensor
from tidemill.sources import Source, csv, openml, sklearn_dataset

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Candidate",
    "Challenge",
    "Contest",
    "Decay",
    "Drift",
    "Gate",
    "Project",
    "Retraining",
    "Source",
    "Task",
    "csv",
    "gallery",
    "load_project",
    "openml",
    "sklearn_dataset",
]


@dataclass(frozen=True)
class Candidate:
    """A kind of model to try, with its fixed parameters and those to search.

        Candidate("logistic", LogisticRegression, {"max_iter": 1000}, search={"C": [0.1, 1, 10]})
        Candidate("sgd", SGDClassifier, search={"alpha": (1e-6, 1e-1)}, trials=30)

    Args:
        name: Names the candidate's runs, and its parameters in `--set NAME.param=value`. Without
            slash, backslash, colon and dot.
        estimator: A scikit-learn-compatible class or instance, or a function that takes keyword
            parameters and returns an estimator.
        params: Fixed parameters of every fit.
        search: Parameters to search over. A list holds the values to try; a tuple `(low, high)` is
            a range of numbers, of integers if both ends are. A float range above 0 that spans more
            than two powers of ten is searched on a log scale.
        trials: How many settings to try. None tries every combination if all entries are lists,
            otherwise 20 settings.
        prune: Whether to end trials early that are clearly behind while they are fitted. Applies to
            searches of 10 or more trials that do not try every combination. The registered model is
            always fitted completely.

    Raises:
        ProjectError: The name is not valid, `trials` is below 1, or an entry of `search` is neither
            a list of values nor a range.
    """

    name: str
    estimator: Any
    params: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    trials: int | None = None
    prune: bool = True

    def __post_init__(self) -> None:
        if not self.name or set(self.name) & set("/:\\."):
            raise ProjectError(
                f"'{self.name}' is not a valid name for a candidate.",
                field="name",
                expected="a text without slash, backslash, colon and dot",
            )
        if self.trials is not None and self.trials < 1:
            raise ProjectError(
                f"Candidate '{self.name}' sets trials={self.trials}.",
                field="trials",
                expected="1 or more, or None",
            )
        for parameter, values in self.search.items():
            if not _searchable(values):
                raise ProjectError(
                    f"Candidate '{self.name}' cannot search '{parameter}' over {values!r}.",
                    field=parameter,
                    expected="a list of values, or a tuple (low, high) of numbers",
                )

    def build(self, **params: Any) -> Any:
        """Return a new, unfitted estimator with `self.params`, overridden by `params`.

        Raises:
            ProjectError: The estimator does not have one of the parameters.
        """
        settings = {**self.params, **params}
        accepted = self.parameters()
        for name in settings:
            if accepted is not None and name not in accepted:
                raise ProjectError(
                    f"Candidate '{self.name}' has no parameter '{name}'.",
                    field=name,
                    expected=f"one of {', '.join(sorted(accepted))}",
                )
        if hasattr(self.estimator, "fit") and not inspect.isclass(self.estimator):
            from sklearn.base import clone

            return clone(self.estimator).set_params(**settings)
        return self.estimator(**settings)

    def parameters(self) -> dict[str, Any] | None:
        """The estimator's parameters with their defaults; None if it accepts any keyword."""
        if hasattr(self.estimator, "get_params") and not inspect.isclass(self.estimator):
            return dict(self.estimator.get_params(deep=True))
        found = inspect.signature(self.estimator).parameters.values()
        if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in found):
            return None
        return {p.name: p.default for p in found}


def _searchable(values: Any) -> bool:
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        return False
    if not isinstance(values, tuple):
        return True
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    return numbers and len(values) == 2 and values[0] < values[1]


@dataclass(frozen=True)
class Gate:
    """The evidence that a version needs to become champion.

        Gate(metric="roc_auc", minimum={"roc_auc": 0.8, "recall": 0.6}, max_latency_ms=5.0)

    The metrics are those of `tidemill.metrics.METRICS`.

    Args:
        metric: The metric that decides between models. None uses f1_score for classification and
            rmse for regression.
        minimum: Bounds that the metrics on held-out rows must meet: the lowest acceptable value, or
            the highest for rmse, mae and log_loss.
        confidence: The required probability, by a paired bootstrap on the same held-out rows, that
            the challenger is not worse than the champion by more than `tolerance`.
        tolerance: How much worse still counts as not worse, in units of the metric.
        max_latency_ms: The longest that the compiled model may take for one row, in milliseconds;
            None for no limit.

    Raises:
        ProjectError: A metric is unknown, or `confidence` is not between 0 and 1.
    """

    metric: str | None = None
    minimum: Mapping[str, float] = field(default_factory=dict)
    confidence: float = 0.95
    tolerance: float = 0.0
    max_latency_ms: float | None = None

    def __post_init__(self) -> None:
        for metric in [self.metric, *self.minimum]:
            if metric is not None and metric not in METRICS:
                raise ProjectError(
                    f"The gate names an unknown metric '{metric}'.",
                    field="gate",
                    expected=f"one of {', '.join(METRICS)}",
                )
        if not 0 < self.confidence < 1:
            raise ProjectError(
                f"The gate's confidence is {self.confidence}.",
                field="confidence",
                expected="between 0 and 1",
            )

    def deciding_metric(self, task: Task) -> str:
        """The metric that decides between models: `metric`, otherwise the task's default.

        Raises:
            ProjectError: The gate names a metric of the other task.
        """
        name = self.metric or default_metric(task)
        if METRICS[name].task != task:
            raise ProjectError(
                f"The gate decides by {name}, which is not a {task} metric.",
                field="gate",
                expected=f"one of {', '.join(metrics_of(task))}",
            )
        return name


@dataclass(frozen=True)
class Project:
    """A model to train, promote, serve and monitor.

    Relative paths start at the folder of the project file (`root`, set by `load_project`).

    Args:
        name: The registered model's name in MLflow. Without slash, backslash and colon.
        data: A `Source`, or a function without arguments that returns a pandas DataFrame.
        target: The column to predict.
        candidates: The models to try. Each is searched separately; the best of all is registered.
        task: "classification" or "regression". None infers it from the target: text, booleans and
            up to 20 different integers with at least ten rows each are classes.
        gate: The evidence that a version needs to be promoted.
        drift: When changed input data is an alarm.
        decay: When a degraded model is an alarm.
        retrain: Which alarms and other causes retrain the model.
        contest: What a retraining is trained on, and how new models compete with the champion.
        challenge: When a challenger is withdrawn from traffic.
        drop: Columns that are neither input nor target, such as ids and leaks.
        rename: New names for columns of the source, by old name; applied first.
        dates: The format of every column of dates or times, by name: "iso" (2024-05-31, with or
            without a time), "iso zoned" (always with a zone), "seconds", "milliseconds",
            "microseconds" or "nanoseconds" since 1970, or a format such as "%d.%m.%Y %H:%M".
            Columns that pandas types as datetimes need not be named.
        preprocess: None builds imputation, scaling and one-hot encoding from the columns' types.
            "none" passes columns on unchanged. An unfitted scikit-learn transformer is put in front
            of every candidate.
        tensor: Set if all inputs together form one tensor: its name, and its shape without rows.
        unknown_categories: What serving does with a text that training has not seen: "refuse"
            responds with 422, "accept" passes it to the model (one-hot encoding ignores it).
        test_size: Share of rows to hold out, between 0 and 1; stratified by class.
        shuffle: False holds out the last rows, for a table ordered by time or with an official
            split.
        seed: Fixes the split and every random choice after it.
        autolog: Whether to also enable `mlflow.sklearn.autolog()`.
        processed: A folder to write `train.csv` and `test.csv` to, after cleaning and splitting.
        description: Shown on the registered model's page.
        tags: Set on every run and version.
        root: The folder that relative paths start at.

    Raises:
        ProjectError: A setting is not valid; the message names it.
    """

    name: str
    data: Source | Callable[[], pd.DataFrame]
    target: str
    candidates: Sequence[Candidate]
    task: Task | None = None
    gate: Gate = field(default_factory=Gate)
    drift: Drift = field(default_factory=Drift)
    decay: Decay = field(default_factory=Decay)
    retrain: Retraining = field(default_factory=Retraining)
    contest: Contest = field(default_factory=Contest)
    challenge: Challenge = field(default_factory=Challenge)
    drop: Sequence[str] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    dates: Mapping[str, str] = field(default_factory=dict)
    preprocess: Any = None
    tensor: Tensor | None = None
    unknown_categories: Literal["refuse", "accept"] = "refuse"
    test_size: float = 0.2
    shuffle: bool = True
    seed: int = 42
    autolog: bool = False
    processed: str | None = None
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    root: Path = field(default_factory=Path.cwd)

    def __post_init__(self) -> None:
        names = [candidate.name for candidate in self.candidates]
        if not self.name or set(self.name) & set("/:\\"):
            raise ProjectError(
                f"'{self.name}' is not a valid name for a model.",
                field="name",
                expected="a text without slash, backslash and colon",
            )
        if not names or len(set(names)) != len(names):
            raise ProjectError(
                "A project needs at least one candidate, and every candidate its own name.",
                field="candidates",
            )
        if self.decay.metric is not None and self.decay.metric not in METRICS:
            raise ProjectError(
                f"The decay policy names an unknown metric '{self.decay.metric}'.",
                field="metric",
                expected=f"one of {', '.join(METRICS)}",
            )
        if self.target in self.drop:
            raise ProjectError(f"The target '{self.target}' is also in `drop`.", field="drop")
        _check_dates(self)
        if not 0 < self.test_size < 1:
            raise ProjectError(
                f"test_size is {self.test_size}.", field="test_size", expected="between 0 and 1"
            )

    def candidate(self, name: str) -> Candidate:
        """Return the candidate of that name.

        Raises:
            ProjectError: There is none; the message lists the names.
        """
        for candidate in self.candidates:
            if candidate.name == name:
                return candidate
        raise ProjectError(
            f"Project '{self.name}' has no candidate '{name}'.",
            field=name,
            expected=f"one of {', '.join(c.name for c in self.candidates)}",
        )


def _check_dates(project: Project) -> None:
    for name, form in project.dates.items():
        if name == project.target:
            raise ProjectError(
                f"The target '{name}' is also in `dates`; a date cannot be predicted.",
                field="dates",
                remedy="Predict the days until then instead, computed in a data function.",
            )
        try:
            check_format(form)
        except DateError as error:
            known = ", ".join(f'"{each}"' for each in (ISO, ZONED, *EPOCHS))
            raise ProjectError(
                f"The format {form!r} of '{name}' {error}.",
                field="dates",
                expected=f"{known}, or a format of {', '.join(f'%{each}' for each in DIRECTIVES)}",
            ) from error


def load_project(reference: str | Path, *, home: Path | None = None) -> Project:
    """Load the project that a Python file defines, or one of the gallery.

        project = load_project("churn/project.py")
        project = load_project("gallery:iris")

    The file is executed with its folder on `sys.path`, like a script.

    Args:
        reference: The path of a Python file, or `gallery:NAME`.
        home: Where a gallery project keeps its files; None uses `TIDEMILL_HOME`, or `.tidemill`.

    Raises:
        ProjectError: There is no such file or gallery project, the file raises an exception, or it
            does not define exactly one project.
    """
    text = str(reference)
    if text.startswith("gallery:"):
        name = text.removeprefix("gallery:")
        home = home or Path(os.environ.get("TIDEMILL_HOME", ".tidemill"))
        return _with_root(
            _load_gallery_project(name), home.expanduser().absolute() / "gallery" / name
        )
    path = Path(text).resolve()
    if not path.is_file():
        raise ProjectError(
            f"The project file {path} does not exist.",
            remedy="Create one with `tidemill init NAME`, or choose one with --project.",
        )
    found = {id(v): v for v in vars(_import_file(path)).values() if isinstance(v, Project)}
    if len(found) != 1:
        raise ProjectError(f"{path} defines {len(found)} projects; it must define exactly one.")
    return _with_root(found.popitem()[1], path.parent)


def _with_root(project: Project, folder: Path) -> Project:
    data = project.data
    if isinstance(data, Source) and data.at is not None:
        data = data.at(folder)
    return replace(project, root=folder, data=data)


def gallery() -> list[str]:
    """The names of the example projects that are installed with Tidemill."""
    folder = Path(__file__).parent / "gallery"
    return sorted(p.stem for p in folder.glob("*.py") if p.stem != "__init__")


def _load_gallery_project(name: str) -> Project:
    if name not in gallery():
        raise ProjectError(
            f"There is no gallery project '{name}'.", expected=f"one of {', '.join(gallery())}"
        )
    module = importlib.import_module(f"tidemill.gallery.{name}")
    project: Project = module.project
    return project


def _import_file(path: Path) -> Any:
    """Execute a project file and return it as a module."""
    spec = importlib.util.spec_from_file_location(f"tidemill_project_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ProjectError(f"{path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except ProjectError:
        raise
    except (Exception, SystemExit) as error:
        raise ProjectError(f"{path} raises {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module
