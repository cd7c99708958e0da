"""Changes of champion and challenger: gate, override, rollback, canary.

Called by `api`, `console`, `cli` and `loop/retraining`. Conditions are in `steps/gate`."""
