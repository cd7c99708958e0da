"""Retraining decisions as pure functions: trigger policy, training windows, contests, staleness.

Called by `loop/monitoring` and `loop/retraining`, which keep the state in `stores/retraining`."""
