"""Commands for operators: jobs, keys, audit, backup and health."""
