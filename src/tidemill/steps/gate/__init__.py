"""The gate's conditions, the paired bootstrap behind them, and the comparison of canaries.

Called by `loop/promotion`, which collects the evidence, and by `loop/retraining`."""
