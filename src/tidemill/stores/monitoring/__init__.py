"""Tables of monitoring: check results and state, triggers, the webhook outbox, API probes.

Used by `loop/monitoring`, `loop/retraining`, `api` and `console`."""
