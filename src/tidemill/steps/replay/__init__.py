"""The comparison of strategies in a replay. Called by `loop/replay`; plots are in `steps/plots`."""
