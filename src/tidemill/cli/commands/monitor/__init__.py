"""Commands that record, monitor and retrain."""
