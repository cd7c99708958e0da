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
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tidemill.errors import ProjectError
from tidemill.signature import Tensor

if TYPE_CHECKING:
    import pandas as pd

Task = Literal["classification", "regression"]

#: Every metric a gate or a promotion may name, and whether more of it is better.
METRICS: dict[str, bool] = {
    "accuracy": True,
    "precision": True,
    "recall": True,
    "f1_score": True,
    "precision_weighted": True,
    "recall_weighted": True,
    "f1_weighted": True,
    "roc_auc": True,
    "log_loss": False,
    "rmse": False,
    "mae": False,
    "r2": True,
}


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
    """

    name: str
    estimator: Any
    params: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    trials: int | None = None

    def build(self, **params: Any) -> Any:
        """A fresh, unfitted estimator with `self.params` overridden by `params`.

        Raises:
            ProjectError: The estimator does not take one of the parameters.
        """
        settings = {**self.params, **params}
        accepted = self.accepts()
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

    def accepts(self) -> dict[str, Any] | None:
        """Parameter names with their defaults; None when the estimator takes any keyword."""
        if hasattr(self.estimator, "get_params") and not inspect.isclass(self.estimator):
            return dict(self.estimator.get_params(deep=True))
        parameters = inspect.signature(self.estimator).parameters.values()
        if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
            return None
        return {p.name: p.default for p in parameters}


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


@dataclass(frozen=True)
class Source:
    """Where rows come from: `load()` gives them, `describe` says it in the run's tags."""

    describe: str
    load: Callable[[], pd.DataFrame]


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
        drop: Columns that are neither input nor target (ids, leaks).
        rename: New names for raw columns, applied before anything else.
        preprocess: None builds imputation, scaling and one-hot encoding from the columns' types;
            "none" passes columns on as they are; otherwise an unfitted scikit-learn transformer,
            put in front of every candidate.
        tensor: Set when all inputs together are one tensor: its name and its shape without rows.
        unknown_categories: "refuse" answers 422 to a text never seen in training; "accept" lets
            the model see it (one-hot encoding then ignores it).
        test_size: Share of rows held out, stratified for classes.
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
    drop: Sequence[str] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    preprocess: Any = None
    tensor: Tensor | None = None
    unknown_categories: Literal["refuse", "accept"] = "refuse"
    test_size: float = 0.2
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
        wanted = [self.gate.metric, *self.gate.minimum]
        for metric in wanted:
            if metric is not None and metric not in METRICS:
                raise ProjectError(
                    f"The gate names an unknown metric '{metric}'.",
                    field="gate",
                    expected=f"one of {', '.join(METRICS)}",
                )
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


def csv(path: str, **options: Any) -> Source:
    """Rows of a CSV file; a relative path starts at the project file's folder.

    `options` go to `pandas.read_csv`.
    """

    def load() -> pd.DataFrame:
        import pandas as pd

        frame: pd.DataFrame = pd.read_csv(path, **options)
        return frame

    return Source(f"csv:{path}", load)


def sklearn_dataset(name: str) -> Source:
    """One of scikit-learn's own data sets: "breast_cancer", "california_housing", "wine", ...

    The target is the column `target`: class names for classifiers, numbers for regressors.
    """

    def load() -> pd.DataFrame:
        from sklearn import datasets

        loader = getattr(datasets, f"load_{name}", None) or getattr(datasets, f"fetch_{name}", None)
        if loader is None:
            raise ProjectError(f"scikit-learn has no data set '{name}'.", field="data")
        loaded = loader(as_frame=True)
        frame: pd.DataFrame = loaded.frame.copy()
        labels = getattr(loaded, "target_names", None)
        if labels is not None and len(labels) > 1:
            frame["target"] = [str(labels[int(i)]) for i in loaded.target]
        return frame

    return Source(f"scikit-learn:{name}", load)


def openml(name: str, version: int | str = 1) -> Source:
    """A data set of openml.org by name, kept in scikit-learn's data home after the first load."""

    def load() -> pd.DataFrame:
        from sklearn.datasets import fetch_openml

        frame: pd.DataFrame = fetch_openml(name, version=version, as_frame=True).frame
        return frame

    return Source(f"openml:{name}", load)


def load_project(reference: str | Path) -> Project:
    """The project in a Python file, or `gallery:NAME`.

    Raises:
        ProjectError: There is no such file, it fails to run, or it holds not exactly one project.
    """
    text = str(reference)
    if text.startswith("gallery:"):
        return _gallery(text.removeprefix("gallery:"))
    path = Path(text).resolve()
    if not path.is_file():
        raise ProjectError(
            f"There is no project file {path}.",
            remedy="Write one with `tidemill init NAME`, or name one with --project.",
        )
    found = [v for v in vars(_run(path)).values() if isinstance(v, Project)]
    if len(found) != 1:
        raise ProjectError(f"{path} holds {len(found)} projects; exactly one is expected.")
    return replace(found[0], root=path.parent)


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
    except Exception as error:
        raise ProjectError(f"{path} fails with {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module
