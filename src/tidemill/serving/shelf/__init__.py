"""The shelf: the server's local folder of bundles, and the traffic rules for challengers.

Written by the control plane (`loop.sync`, `loop.promotion`), read by `serving.model`.
"""
