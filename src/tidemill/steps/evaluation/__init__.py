"""Evaluation of predictions on held-out rows: metrics, reports and the paired bootstrap.

The table of metrics is `tidemill.metrics`; comparison of two versions is in `steps/gate`.
"""
