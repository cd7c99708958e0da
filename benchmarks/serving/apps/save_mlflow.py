"""Save both models in MLflow's format: save_mlflow.py FOLDER frame|tensor

The signature decides how `mlflow models serve` reads a request: a DataFrame or an array.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mlflow.models import infer_signature
from mlflow.sklearn import save_model

from benchmarks.serving.train import MODELS, fit, split


def main(folder: Path, kind: str) -> None:
    X, *_ = split(as_frame=kind == "frame")
    for name in MODELS:
        model = fit(name, as_frame=kind == "frame")
        signature = infer_signature(X, model.predict(X))
        save_model(model, folder / name, signature=signature, serialization_format="cloudpickle")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
