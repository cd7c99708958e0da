"""Drift tests of a monitoring window against the training profile: pure functions on arrays.

Called by `loop/monitoring`; `loop/training` makes profiles. Decay is in `steps/decay`."""
