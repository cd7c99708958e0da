"""Tidemill keeps models accurate: train, register, gate, serve, monitor, retrain."""

from __future__ import annotations

from tidemill.project import (
    Candidate,
    Challenge,
    Contest,
    Decay,
    Drift,
    Gate,
    Project,
    Retraining,
    Source,
    csv,
    openml,
    sklearn_dataset,
)
from tidemill.signature import Tensor

__version__ = "0.1.0"
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
    "Tensor",
    "__version__",
    "csv",
    "openml",
    "sklearn_dataset",
]
