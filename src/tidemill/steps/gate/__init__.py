"""The gate: its conditions, metric intervals, fresh rows, and the comparison of canaries.

Called by `loop/promotion`, which collects the evidence, and by `loop/retraining`.
"""
