"""The use case of retraining; start with `retraining.py`, whose docstring lists the steps.

Called by `worker` (jobs) and `platform`. Decisions are in `steps/retraining`."""
