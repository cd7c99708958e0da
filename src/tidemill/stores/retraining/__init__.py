"""The table of contests. Used by `loop/retraining`, `api` and `console`."""
