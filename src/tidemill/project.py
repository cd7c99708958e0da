"""What a user writes: a `Project` with its data, its candidates and its gate.

    from tidemill import Candidate, Gate, Project, csv
    from sklearn.linear_model import LogisticRegression

    project = Project(
        name="churn",
        data=csv("data/churn.csv"),
        target="churned",
        candidates=[Candidate("logistic", LogisticRegression, search={"C": [0.1, 1, 10]})],
        gate=Gate(metric="f1_score", minimum={"f1_score": 0.7}),
    )

A project only stores what it is given; `tidemill.loop` acts on it. Importing this module loads
neither pandas nor scikit-learn.
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
    """One kind of model to try.

    Args:
        name: Names its runs, as in `--set NAME.param=value`.
        estimator: A scikit-learn-compatible class, an instance, or a function of keyword
            parameters that returns an estimator.
        params: Parameters given to every fit.
        search: Parameters to search over: a list of values each, or a `(low, high)` tuple for a
            range (a float range that spans more than two powers of ten is searched on a log scale).
        trials: How many settings to try. None tries the whole grid when every entry is a list, and
            20 otherwise.
        prune: Let a search of 10 or more trials that does not try its whole grid give up those
            that are plainly behind while they learn. What is registered is always a whole fit.
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
                f"'{self.name}' cannot name a candidate.",
                field="name",
                expected="a text without slash, backslash, colon or dot",
            )
        if self.trials is not None and self.trials < 1:
            raise ProjectError(
                f"Candidate '{self.name}' asks for {self.trials} trials.",
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
        """A fresh, unfitted estimator with `self.params` overridden by `params`.

        Raises:
            ProjectError: The estimator does not take one of the parameters.
        """
        settings = {**self.params, **params}
        accepted = self.parameters()
        for name in settings:
            if accepted is not None and name not in accepted:
                raise ProjectError(
                    f"Candidate '{self.name}' takes no parameter '{name}'.",
                    field=name,
                    expected=f"one of {', '.join(sorted(accepted))}",
                )
        if hasattr(self.estimator, "fit") and not inspect.isclass(self.estimator):
            from sklearn.base import clone

            return clone(self.estimator).set_params(**settings)
        return self.estimator(**settings)

    def parameters(self) -> dict[str, Any] | None:
        """Parameter names with their defaults; None when the estimator takes any keyword."""
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
    """The evidence a version must bring to become champion.

    Args:
        metric: The metric that decides; None takes f1_score for classifiers, rmse for regressors.
        minimum: The worst acceptable value of any metric on held-out rows (for rmse, mae and
            log_loss, the largest).
        confidence: How sure the paired bootstrap must be that the challenger is not worse by
            more than `tolerance`.
        tolerance: How much worse, in units of the metric, still counts as not worse.
        max_latency_ms: The longest one row may take in the compiled model; None for no limit.
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
        """The metric that decides between models: `metric`, or the task's default.

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
    """A model to train, gate, serve and keep right.

    Args:
        name: The registered model's name in MLflow.
        data: A `Source`, or any function without arguments that returns a DataFrame.
        target: The column to predict.
        candidates: What to try; each is searched on its own, the best of all is registered.
        task: Guessed from the target when None: text, booleans and few whole numbers are classes.
        gate: What a version must show before it is promoted.
        drift: When moved data is an alarm.
        decay: When a worse model is an alarm.
        retrain: Which alarms, or what else, train the model again.
        contest: What a retraining learns from, and how its models compete with the champion.
        challenge: When a challenger is taken out of the traffic.
        drop: Columns that are neither input nor target (ids, leaks).
        rename: New names for raw columns, applied before anything else.
        preprocess: None builds imputation, scaling and one-hot encoding from the columns' types;
            "none" passes columns on as they are; otherwise an unfitted scikit-learn transformer,
            put in front of every candidate.
        tensor: Set when all inputs together are one tensor: its name and its shape without rows.
        unknown_categories: "refuse" answers 422 to a text never seen in training; "accept" lets
            the model see it (one-hot encoding then ignores it).
        test_size: Share of rows held out, stratified for classes.
        shuffle: False holds out the last rows in the order they came: for a table ordered by time,
            or one with an official split.
        seed: Fixes the split and every random choice that follows.
        autolog: Also switch on `mlflow.sklearn.autolog()`.
        processed: A folder for `train.csv` and `test.csv` after cleaning and splitting.
        description: For the registered model's page.
        tags: For every run and version.
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
                f"'{self.name}' cannot name a model.",
                field="name",
                expected="a text without slash, backslash or colon",
            )
        if not names or len(set(names)) != len(names):
            raise ProjectError(
                "A project needs candidates, each with a name of its own.", field="candidates"
            )
        if self.decay.metric is not None and self.decay.metric not in METRICS:
            raise ProjectError(
                f"The decay policy names an unknown metric '{self.decay.metric}'.",
                field="metric",
                expected=f"one of {', '.join(METRICS)}",
            )
        if self.target in self.drop:
            raise ProjectError(f"The target '{self.target}' is also dropped.", field="drop")
        if not 0 < self.test_size < 1:
            raise ProjectError(
                f"test_size is {self.test_size}.", field="test_size", expected="between 0 and 1"
            )

    def candidate(self, name: str) -> Candidate:
        """The candidate of that name, or a ProjectError that lists the names there are."""
        for candidate in self.candidates:
            if candidate.name == name:
                return candidate
        raise ProjectError(
            f"Project '{self.name}' has no candidate '{name}'.",
            field=name,
            expected=f"one of {', '.join(c.name for c in self.candidates)}",
        )


def load_project(reference: str | Path, *, home: Path | None = None) -> Project:
    """The project in a Python file, or `gallery:NAME`.

    Args:
        home: Where a gallery project keeps its files; None is `TIDEMILL_HOME`, or else `.tidemill`.

    Raises:
        ProjectError: There is no such file, it fails to run, or it holds not exactly one project.
    """
    text = str(reference)
    if text.startswith("gallery:"):
        name = text.removeprefix("gallery:")
        home = home or Path(os.environ.get("TIDEMILL_HOME", ".tidemill"))
        return _rooted(_gallery(name), home.expanduser().absolute() / "gallery" / name)
    path = Path(text).resolve()
    if not path.is_file():
        raise ProjectError(
            f"There is no project file {path}.",
            remedy="Write one with `tidemill init NAME`, or name one with --project.",
        )
    found = {id(v): v for v in vars(_run(path)).values() if isinstance(v, Project)}
    if len(found) != 1:
        raise ProjectError(f"{path} holds {len(found)} projects; exactly one is expected.")
    return _rooted(found.popitem()[1], path.parent)


def _rooted(project: Project, folder: Path) -> Project:
    data = project.data
    if isinstance(data, Source) and data.at is not None:
        data = data.at(folder)
    return replace(project, root=folder, data=data)


def gallery() -> list[str]:
    """The names of the projects that come with Tidemill."""
    folder = Path(__file__).parent / "gallery"
    return sorted(p.stem for p in folder.glob("*.py") if p.stem != "__init__")


def _gallery(name: str) -> Project:
    if name not in gallery():
        raise ProjectError(
            f"There is no gallery project '{name}'.", expected=f"one of {', '.join(gallery())}"
        )
    module = importlib.import_module(f"tidemill.gallery.{name}")
    project: Project = module.project
    return project


def _run(path: Path) -> Any:
    """The module that a project file makes, with its folder importable as a script's would be."""
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
        raise ProjectError(f"{path} fails with {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module
