"""State: everything the control plane stores in its database, in MLflow and in the home.

Used by `loop` and everything above it; imports nothing of them. The workflows are in `loop/`.
"""
