"""Profiles of models that are not exported, created with the export step's function."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pandas as pd

from tidemill.signature import Column, Signature
from tidemill.steps.export.model_io import ModelPredictions
from tidemill.steps.export.reference_profile import make_profile


def profile_of(
    frame: pd.DataFrame, model: Any, test: pd.DataFrame, truth: np.ndarray | None = None
) -> dict[str, Any]:
    """Create the profile of a model with training rows `frame` and test rows `test`.

    `truth`, the targets of the test rows, adds the fields that only decay needs; it takes longer.
    """
    columns = tuple(Column(name, "number") for name in frame.columns)
    if hasattr(model, "predict_proba"):
        labels = tuple(model.classes_.tolist())
        signature = Signature("classification", "target", columns, labels=labels)
        probabilities = model.predict_proba(test)
        chosen = probabilities.argmax(axis=1)
        predictions = ModelPredictions(model.classes_[chosen], chosen, probabilities)
    else:
        signature = Signature("regression", "target", columns)
        predictions = ModelPredictions(model.predict(test))
    profile = make_profile(frame, signature, predictions, y_test=truth)
    return dict(msgspec.json.decode(msgspec.json.encode(profile)))
