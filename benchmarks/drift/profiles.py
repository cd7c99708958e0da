"""Profiles, by the export step's own function, of models that are never exported."""

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
    """The profile of a model on its training rows `frame`, tried on the rows `test`.

    `truth`, the test rows' targets, adds what only decay needs, and takes longer.
    """
    columns = tuple(Column(name, "number") for name in frame.columns)
    if hasattr(model, "predict_proba"):
        labels = tuple(model.classes_.tolist())
        signature = Signature("classification", "target", columns, labels=labels)
        chances = model.predict_proba(test)
        chosen = chances.argmax(axis=1)
        answers = ModelPredictions(model.classes_[chosen], chosen, chances)
    else:
        signature = Signature("regression", "target", columns)
        answers = ModelPredictions(model.predict(test))
    made = make_profile(frame, signature, answers, y_test=truth)
    return dict(msgspec.json.decode(msgspec.json.encode(made)))
