"""Training: run a project's trials, track them in MLflow, and register the best as a version.

`train` runs in one process; `sweep` divides it into tasks for workers. `new_project` creates
projects. Used by `cli/`, `api/` and `worker/`.
"""
