"""MLflow: runs, logged models, and the registry of versions with their aliases and bundles.

`Tracking` and `Registry` raise Tidemill's own errors within seconds when MLflow is down.
"""
