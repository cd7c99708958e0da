"""Replays of a labelled table through the running loop, compared with baselines.

Called by `cli`, which starts the processes. The comparison is in `steps/replay`."""
