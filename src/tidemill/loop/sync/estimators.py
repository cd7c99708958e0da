"""Loads estimators from MLflow models of the common libraries, and derives their signatures."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tidemill.errors import BundleError, ExportError
from tidemill.loop.sync.model_signature import make_signature, signed_inputs, target_name
from tidemill.serving.model.sklearn_runtime import rebuild
from tidemill.signature import Column, Label, Signature, Tensor
from tidemill.steps.export.external_signature import SIGNATURE_REMEDY, Inputs
from tidemill.stores.mlflow.connection import without_warnings
from tidemill.stores.mlflow.external_models import ExternalModel

TRUST = "Serve with --trust if you trust everyone who can write to the registry."


def load_estimator(model: ExternalModel, *, trust: bool) -> Any:
    """Load the fitted estimator, from the first supported flavor.

    Args:
        trust: Whether models may be unpickled, which runs their author's code.

    Raises:
        ExportError: No flavor is supported, or the model cannot be loaded without trust.
    """
    for flavor, load in LOADERS.items():
        if flavor in model.flavors:
            with without_warnings():
                return _load(flavor, load, model, trust)
    raise ExportError(f"No estimator can be loaded from the flavors {', '.join(model.flavors)}.")


def signature_of(model: ExternalModel, estimator: Any) -> Signature:
    """The signature of an estimator, from its MLflow signature or its fitted attributes.

    Raises:
        ExportError: It predicts several values per row, or its inputs are unknown.
    """
    inputs = signed_inputs(model) or _fitted_inputs(estimator)
    return make_signature(inputs, _labels(estimator), target_name(model))


def _load(
    flavor: str,
    load: Callable[[Path, Mapping[str, Any], bool], Any],
    model: ExternalModel,
    trust: bool,
) -> Any:
    try:
        return load(model.folder, model.flavors[flavor], trust)
    except ExportError:
        raise
    except BundleError as error:  # a type that skops must not rebuild
        raise ExportError(error.detail, remedy=TRUST) from error
    except ImportError as error:
        raise ExportError(
            f"The {flavor} model cannot be loaded: {error}.",
            remedy="Install the package that it was trained with.",
        ) from error
    except Exception as error:  # the libraries' own errors share no public base
        raise ExportError(
            f"The {flavor} model cannot be loaded: {type(error).__name__}: {error}"
        ) from error


def _sklearn(folder: Path, flavor: Mapping[str, Any], trust: bool) -> Any:
    path = folder / str(flavor["pickled_model"])
    if flavor.get("serialization_format") == "skops" and not trust:
        return rebuild(path.read_bytes())
    _require_trust(trust, "scikit-learn")
    return importlib.import_module("mlflow.sklearn").load_model(str(folder))


def _xgboost(folder: Path, flavor: Mapping[str, Any], trust: bool) -> Any:
    """Load XGBoost's own format, which contains no code."""
    xgboost = importlib.import_module("xgboost")
    kind = str(flavor.get("model_class", "xgboost.core.Booster")).rpartition(".")[2]
    if kind == "Booster":
        kind = "XGBRegressor"  # predicts the same as the booster itself
    if not kind.startswith("XGB") or not hasattr(xgboost, kind):
        raise ExportError(f"XGBoost's {kind} has no compiled form.")
    estimator = getattr(xgboost, kind)()
    estimator.load_model(str(folder / str(flavor["data"])))
    return estimator


def _lightgbm(folder: Path, flavor: Mapping[str, Any], trust: bool) -> Any:
    path = folder / str(flavor["data"])
    if str(flavor.get("model_class", "")).endswith("Booster"):
        return _as_regressor(importlib.import_module("lightgbm"), path)
    if flavor.get("serialization_format") == "skops" and not trust:
        return rebuild(path.read_bytes())
    _require_trust(trust, "LightGBM")
    return importlib.import_module("mlflow.lightgbm").load_model(str(folder))


def _as_regressor(lightgbm: Any, path: Path) -> Any:
    """Load LightGBM's own format, which contains no code; predicts the same as the booster."""
    booster = lightgbm.Booster(model_file=str(path))
    if booster.num_model_per_iteration() > 1:
        raise ExportError("LightGBM's Booster of several classes has no compiled form.")
    estimator = lightgbm.LGBMRegressor()
    estimator._Booster, estimator.fitted_ = booster, True
    estimator._n_features = estimator._n_features_in = booster.num_feature()
    return estimator


def _catboost(folder: Path, flavor: Mapping[str, Any], trust: bool) -> Any:
    """Load CatBoost's own format, which contains no code."""
    catboost = importlib.import_module("catboost")
    kind = str(flavor.get("model_type", "CatBoost"))
    if kind not in ("CatBoostClassifier", "CatBoostRegressor"):
        raise ExportError(f"{kind} has no compiled form.")
    estimator = getattr(catboost, kind)()
    estimator.load_model(str(folder / str(flavor["data"])), format=flavor.get("save_format", "cbm"))
    return estimator


LOADERS: dict[str, Callable[[Path, Mapping[str, Any], bool], Any]] = {
    "sklearn": _sklearn,
    "xgboost": _xgboost,
    "lightgbm": _lightgbm,
    "catboost": _catboost,
}


def _require_trust(trust: bool, library: str) -> None:
    if not trust:
        raise ExportError(
            f"The {library} model is pickled, and unpickling it would run its author's code.",
            remedy=TRUST,
        )


def _fitted_inputs(estimator: Any) -> Inputs:
    """The inputs according to a fitted estimator's attributes: column names, or their number."""
    strings = _fitted_on_strings(estimator)
    names = getattr(estimator, "feature_names_in_", None)
    if names is not None and not strings:
        return tuple(Column(str(name), "number") for name in names)
    count = getattr(estimator, "n_features_in_", None)
    if names is None and count is not None and not strings:
        return Tensor("features", (int(count),), "float64")
    raise ExportError(
        "The model was logged without a signature, and the types of its columns are unknown.",
        remedy=SIGNATURE_REMEDY,
    )


def _fitted_on_strings(estimator: Any) -> bool:
    """Whether a step was fitted on strings."""
    from sklearn.base import BaseEstimator

    seen: list[Any] = [estimator]
    while seen:
        part = seen.pop()
        if isinstance(part, BaseEstimator):
            known = getattr(part, "categories_", [])
            if any(np.asarray(values).dtype.kind in "OU" for values in known):
                return True
            if hasattr(part, "vocabulary_"):
                return True
            seen += vars(part).values()
        elif isinstance(part, list | tuple):
            seen += part
    return False


def _labels(estimator: Any) -> tuple[Label, ...]:
    classes = getattr(estimator, "classes_", None)
    if classes is None or _is_regressor(estimator):
        return ()
    if isinstance(classes, list):
        raise ExportError("The model predicts several labels per row.", remedy="Predict one.")
    found: tuple[Label, ...] = tuple(classes.tolist())
    return found


def _is_regressor(estimator: Any) -> bool:
    from sklearn.base import is_regressor

    return bool(is_regressor(estimator))
