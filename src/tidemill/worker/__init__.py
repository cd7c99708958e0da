"""Background jobs: each one runs in a process of its own, under a worker that restarts what dies.

`__main__` starts a worker. `job_kinds` lists what a job can do; `watch` is the monitoring process.
"""
