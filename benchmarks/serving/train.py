"""Fit the two models of the benchmark: FOLDER [--frame]

Runs in a peer's environment, so that the peer loads models saved by its own package versions.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

MODELS = {"logistic": "scaler + logistic regression", "forest": "scaler + random forest, 100 trees"}


def split(as_frame: bool = False) -> tuple[Any, Any, Any, Any]:
    """Return X_train, X_test, y_train, y_test: 455 and 114 rows of 30 numbers."""
    X, y = load_breast_cancer(return_X_y=True, as_frame=as_frame)
    parts: list[Any] = train_test_split(X, y, test_size=0.2, stratify=y, random_state=0)
    return parts[0], parts[1], parts[2], parts[3]


def fit(name: str, as_frame: bool = False) -> Any:
    """Fit the named pipeline on the training rows; reproducible on every machine."""
    X, _, y, _ = split(as_frame)
    if name == "logistic":
        estimator: Any = LogisticRegression(max_iter=1000)
    else:
        estimator = RandomForestClassifier(n_estimators=100, random_state=0)
    return make_pipeline(StandardScaler(), estimator).fit(X, y)


def columns() -> list[str]:
    """Return the names of the 30 inputs, in order."""
    return [str(name) for name in load_breast_cancer().feature_names]


def main(folder: Path, as_frame: bool) -> None:
    import joblib

    for name in MODELS:
        joblib.dump(fit(name, as_frame), folder / f"{name}.joblib")


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--frame" in sys.argv)
