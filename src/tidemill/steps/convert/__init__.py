"""A fitted model to ONNX: the pipeline is walked, each step's handler adds to one graph.

To compile another kind of model, register a handler for its class (see `dispatch`) in a module that
this one imports.
"""

from __future__ import annotations

from tidemill.steps.convert import (
    boosting,
    columns,
    encoders,
    ensembles,
    feature_transforms,
    kernels,
    linear,
    trees,
    wrappers,
)
from tidemill.steps.convert.model import Converted, convert

__all__ = [
    "Converted",
    "boosting",
    "columns",
    "convert",
    "encoders",
    "ensembles",
    "feature_transforms",
    "kernels",
    "linear",
    "trees",
    "wrappers",
]
