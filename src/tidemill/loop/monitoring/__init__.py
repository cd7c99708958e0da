"""Checks of live models, triggers and reports; start with `watcher.py`. Also the API monitor.

Called by `api`, `console`, `cli` and `worker`. Tests are in `steps/drift` and `steps/decay`."""
