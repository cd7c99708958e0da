"""Background jobs: the table of jobs, the broker that tells workers, and which errors are retried.

The workers that run jobs are in `tidemill/worker`.
"""
