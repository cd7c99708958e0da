"""Tests of live performance: the labelled window, sequential detectors, estimates without labels.

Called by `loop/monitoring` and `loop/retraining`. Drift of the data is in `steps/drift`."""
