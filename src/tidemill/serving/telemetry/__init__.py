"""What operators see of the data plane: metrics, logs and the state of its dependencies.

Used by all of `serving`; uses none of it.
"""
