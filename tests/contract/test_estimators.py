"""How each scikit-learn estimator is served; generates docs/estimators.md.

    python tests/contract/test_estimators.py     regenerates the table

Every estimator is fitted behind a project's default preprocessing, on a table of numbers and on a
table of numbers, strings and booleans with missing values.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cross_decomposition import CCA, PLSCanonical, PLSRegression
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    BaggingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.feature_selection import RFE, SelectKBest, f_regression
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, SGDClassifier
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    RandomizedSearchCV,
    TunedThresholdClassifierCV,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier, OutputCodeClassifier
from sklearn.naive_bayes import CategoricalNB, ComplementNB, GaussianNB, MultinomialNB
from sklearn.neighbors import (
    KNeighborsClassifier,
    RadiusNeighborsClassifier,
    RadiusNeighborsRegressor,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MinMaxScaler,
    PolynomialFeatures,
)
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils import all_estimators

from tidemill.errors import ExportError
from tidemill.project import Candidate, Project
from tidemill.steps.data.preprocessing import build_pipeline
from tidemill.steps.data.signature_inference import infer_signature
from tidemill.steps.export.compile import compile_model

DOCS = Path(__file__).parents[2] / "docs" / "estimators.md"
ROWS, HELD_OUT = 240, 80
WORDS = {"onnx": "ONNX", "skops": "fallback"}

Make = Callable[[], Any]


class OwnClassifier(ClassifierMixin, BaseEstimator):
    """An estimator that a user wrote: it predicts the label seen first."""

    def fit(self, X: Any, y: Any) -> OwnClassifier:
        self.classes_ = np.unique(y)
        return self

    def predict(self, X: Any) -> Any:
        return np.repeat(self.classes_[:1], len(X))


def clipped(X: Any) -> Any:
    return np.clip(X, -3, 3)


#: As scikit-learn makes them, but for a fixed seed.
PLAIN = (
    "AdaBoostClassifier",
    "BaggingClassifier",
    "BernoulliNB",
    "CalibratedClassifierCV",
    "DecisionTreeClassifier",
    "DummyClassifier",
    "ExtraTreeClassifier",
    "ExtraTreesClassifier",
    "GaussianNB",
    "GaussianProcessClassifier",
    "GradientBoostingClassifier",
    "HistGradientBoostingClassifier",
    "KNeighborsClassifier",
    "LabelPropagation",
    "LabelSpreading",
    "LinearDiscriminantAnalysis",
    "LinearSVC",
    "LogisticRegression",
    "LogisticRegressionCV",
    "MLPClassifier",
    "NearestCentroid",
    "NuSVC",
    "Perceptron",
    "RandomForestClassifier",
    "RidgeClassifier",
    "RidgeClassifierCV",
    "SGDClassifier",
    "SVC",
    "ARDRegression",
    "AdaBoostRegressor",
    "BaggingRegressor",
    "BayesianRidge",
    "DecisionTreeRegressor",
    "DummyRegressor",
    "ElasticNet",
    "ElasticNetCV",
    "ExtraTreeRegressor",
    "ExtraTreesRegressor",
    "GammaRegressor",
    "GaussianProcessRegressor",
    "GradientBoostingRegressor",
    "HistGradientBoostingRegressor",
    "HuberRegressor",
    "KNeighborsRegressor",
    "KernelRidge",
    "Lars",
    "LarsCV",
    "Lasso",
    "LassoCV",
    "LassoLars",
    "LassoLarsCV",
    "LassoLarsIC",
    "LinearRegression",
    "LinearSVR",
    "MLPRegressor",
    "NuSVR",
    "OrthogonalMatchingPursuit",
    "OrthogonalMatchingPursuitCV",
    "PLSRegression",
    "PoissonRegressor",
    "QuantileRegressor",
    "RANSACRegressor",
    "RandomForestRegressor",
    "Ridge",
    "RidgeCV",
    "SGDRegressor",
    "SVR",
    "TheilSenRegressor",
    "TransformedTargetRegressor",
    "TweedieRegressor",
)


def _two() -> list[tuple[str, Any]]:
    return [("linear", LogisticRegression()), ("tree", DecisionTreeClassifier(max_depth=3))]


def _two_regressors() -> list[tuple[str, Any]]:
    return [("linear", Ridge()), ("tree", DecisionTreeRegressor(max_depth=3))]


CLASSIFIERS: dict[str, Make] = {
    "BaggingClassifier of LinearSVC": lambda: BaggingClassifier(LinearSVC(), random_state=0),
    "CalibratedClassifierCV, isotonic, of RandomForestClassifier": lambda: CalibratedClassifierCV(
        RandomForestClassifier(10, random_state=0), method="isotonic", cv=3
    ),
    "CalibratedClassifierCV of SVC": lambda: CalibratedClassifierCV(SVC(), cv=3),
    "CategoricalNB behind KBinsDiscretizer": lambda: make_pipeline(
        KBinsDiscretizer(3, encode="ordinal", quantile_method="linear"), CategoricalNB()
    ),
    "ComplementNB behind MinMaxScaler": lambda: make_pipeline(
        MinMaxScaler(clip=True), ComplementNB()
    ),
    "DummyClassifier, stratified": lambda: DummyClassifier(strategy="stratified"),
    "FixedThresholdClassifier": lambda: FixedThresholdClassifier(
        LogisticRegression(), threshold=0.3
    ),
    "GridSearchCV": lambda: GridSearchCV(LogisticRegression(), {"C": [0.1, 1]}, cv=3),
    "HistGradientBoostingClassifier, categorical_features": lambda: HistGradientBoostingClassifier(
        categorical_features=[0]
    ),
    "KNeighborsClassifier, weights='distance'": lambda: KNeighborsClassifier(weights="distance"),
    "LogisticRegression behind a function of yours": lambda: make_pipeline(
        FunctionTransformer(clipped), LogisticRegression()
    ),
    "LogisticRegression behind PCA": lambda: make_pipeline(PCA(2), LogisticRegression()),
    "MultinomialNB behind MinMaxScaler": lambda: make_pipeline(
        MinMaxScaler(clip=True), MultinomialNB()
    ),
    "OneVsOneClassifier": lambda: OneVsOneClassifier(LogisticRegression()),
    "OneVsRestClassifier": lambda: OneVsRestClassifier(LogisticRegression()),
    "OutputCodeClassifier": lambda: OutputCodeClassifier(LogisticRegression(), random_state=0),
    "QuadraticDiscriminantAnalysis": lambda: QuadraticDiscriminantAnalysis(reg_param=0.1),
    "RadiusNeighborsClassifier": lambda: RadiusNeighborsClassifier(radius=50.0),
    "RandomForestClassifier of depth 4": lambda: RandomForestClassifier(
        20, max_depth=4, random_state=0
    ),
    "RandomizedSearchCV": lambda: RandomizedSearchCV(
        LogisticRegression(), {"C": [0.1, 1]}, n_iter=2, cv=3, random_state=0
    ),
    "RFE": lambda: RFE(LogisticRegression(), n_features_to_select=2),
    "SelfTrainingClassifier": lambda: SelfTrainingClassifier(LogisticRegression()),
    "SGDClassifier, log_loss": lambda: SGDClassifier(loss="log_loss", random_state=0),
    "StackingClassifier": lambda: StackingClassifier(_two(), cv=3),
    "TunedThresholdClassifierCV": lambda: TunedThresholdClassifierCV(LogisticRegression(), cv=3),
    "VotingClassifier, hard": lambda: VotingClassifier(_two()),
    "VotingClassifier, soft": lambda: VotingClassifier(
        [*_two(), ("nb", GaussianNB())], voting="soft"
    ),
    "an estimator of your own": OwnClassifier,
}
REGRESSORS: dict[str, Make] = {
    "CCA": lambda: CCA(n_components=1),
    "IsotonicRegression of one column": lambda: make_pipeline(
        SelectKBest(f_regression, k=1), IsotonicRegression(out_of_bounds="clip")
    ),
    "LinearRegression behind PolynomialFeatures": lambda: make_pipeline(
        PolynomialFeatures(2), LinearRegression()
    ),
    "PLSCanonical": lambda: PLSCanonical(n_components=1),
    "PLSRegression of three components": lambda: PLSRegression(n_components=3),
    "RadiusNeighborsRegressor": lambda: RadiusNeighborsRegressor(radius=50.0),
    "StackingRegressor": lambda: StackingRegressor(_two_regressors(), cv=3),
    "VotingRegressor": lambda: VotingRegressor(_two_regressors()),
}
ONLY_TWO_CLASSES = ("FixedThresholdClassifier", "TunedThresholdClassifierCV")


def _plain(task: str) -> dict[str, Make]:
    found = dict(all_estimators(type_filter=task.removesuffix("s")))
    return {name: lambda kind=found[name]: _seeded(kind) for name in PLAIN if name in found}


def _seeded(kind: Any) -> Any:
    estimator = kind()
    seeded = "random_state" in estimator.get_params(deep=False)
    return estimator.set_params(random_state=0) if seeded else estimator


@cache
def cases() -> dict[str, tuple[str, Make]]:
    """Every row of the table: its name, its task and what makes the estimator."""
    both = {
        "classification": {**_plain("classifiers"), **CLASSIFIERS},
        "regression": {**_plain("regressors"), **REGRESSORS},
    }
    return {
        name: (task, made[name])
        for task, made in both.items()
        for name in sorted(made, key=str.casefold)
    }


def table(mixed: bool) -> pd.DataFrame:
    """Made-up inputs: numbers of several sizes, and where wanted texts, booleans and gaps."""
    rng = np.random.default_rng(3)
    X = pd.DataFrame({f"size{i}": rng.normal(size=ROWS) * 10.0**i for i in range(4)})
    if mixed:
        X["count"] = rng.integers(0, 50, ROWS)
        X["flag"] = rng.random(ROWS) < 0.4
        X["city"] = rng.choice(["Bern", "Lima", "Oslo", "Rome"], ROWS)
        X.loc[rng.random(ROWS) < 0.1, "size1"] = np.nan
        X.loc[rng.random(ROWS) < 0.1, "city"] = np.nan
    return X


def targets(X: pd.DataFrame, task: str, mixed: bool, classes: int) -> Any:
    """What to learn; texts for labels on the mixed table, whole numbers on the other."""
    leaning = X["size0"] + X["size2"] / 50 + (X["count"] / 20 if mixed else 0)
    if task == "regression":
        return (leaning - leaning.min() + 1).to_numpy()
    cuts = np.quantile(leaning, np.arange(1, classes) / classes)
    codes = np.digitize(leaning, cuts)
    return np.array(["high", "low", "middle"], dtype=object)[codes] if mixed else codes


def outcome(name: str, mixed: bool) -> tuple[str, str]:
    """ONNX, fallback or refused, and why it is not ONNX."""
    task, make = cases()[name]
    X = table(mixed)
    y = targets(X, task, mixed, 2 if mixed or name in ONLY_TWO_CLASSES else 3)
    project = Project("table", data=lambda: X, target="y", candidates=[Candidate("one", make)])
    cut = ROWS - HELD_OUT
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what estimators say of these made-up tables
        model = build_pipeline(make(), X, project).fit(X[:cut], y[:cut])
    try:
        compiled = compile_model(model, infer_signature(X, y, task, project), X[cut:])
    except ExportError as error:
        return "refused", error.detail
    return WORDS[compiled.runtime], compiled.reason or ""


def documented() -> dict[str, tuple[str, str]]:
    """The outcomes in the docs, by the estimator's name: on numbers, on the mixed table."""
    lines = [line.strip() for line in DOCS.read_text().splitlines()]
    rows = [[c.strip() for c in line[1:-1].split(" | ")] for line in lines if line.startswith("|")]
    return {cells[0]: (cells[1], cells[2]) for cells in rows if len(cells) == 4}


@pytest.mark.parametrize("name", cases())
def test_each_estimator_becomes_what_the_docs_say(name: str) -> None:
    found = (outcome(name, mixed=False)[0], outcome(name, mixed=True)[0])
    assert found == documented()[name]


def test_the_docs_list_only_tested_estimators() -> None:
    listed = set(documented()) - {"estimator", "---"}
    if _version() == _documented_version():
        assert listed == set(cases())
    else:
        assert listed >= set(cases())


def test_most_estimators_compile() -> None:
    found = [outcomes for name, outcomes in documented().items() if name in cases()]
    assert len(found) >= 90
    assert sum(pair == ("ONNX", "ONNX") for pair in found) >= 0.85 * len(found)


def _version() -> str:
    return ".".join(sklearn.__version__.split(".")[:2])


def _documented_version() -> str:
    return DOCS.read_text().split("scikit-learn ")[1].split(" ")[0]


HEAD = """# Supported estimators

Every candidate is compiled to ONNX during training, and the compiled model is compared with the
fitted one on held-out rows and on rows derived from them: labels must be identical, probabilities
and values within a relative 1e-5. A model that cannot be compiled or fails this comparison is
served by scikit-learn itself (`fallback`), which is slower and needs
`pip install 'tidemill[native]'` on the serving machine. A model that neither can serve is refused
during training, with the reason.

The table below comes from `tests/contract/test_estimators.py`, which trains each estimator behind
the default preprocessing and checks the outcome; with scikit-learn {version} here. "Numbers" are
four numeric columns, "mixed" adds whole numbers, booleans, texts and missing values.

"""


def render() -> str:
    lines = [HEAD.format(version=_version())]
    for title, wanted in (("Classifiers", "classification"), ("Regressors", "regression")):
        lines += [f"## {title}\n", "| estimator | numbers | mixed | why not ONNX |"]
        lines.append("| --- | --- | --- | --- |")
        for name, (task, _) in cases().items():
            if task == wanted:
                lines.append(_line(name))
        lines.append("")
    return "\n".join(lines)


def _line(name: str) -> str:
    numbers, mixed = outcome(name, mixed=False), outcome(name, mixed=True)
    why = (numbers[1] or mixed[1]).removeprefix("The model cannot be served. ")
    why = re.sub(r" \(\w+: [^)]*\)", "", why).replace("__main__.", "").replace("|", "/")
    return f"| {name} | {numbers[0]} | {mixed[0]} | {why} |"


if __name__ == "__main__":
    DOCS.write_text(render())
