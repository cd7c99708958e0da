"""Recorded predictions and their labels: rows, label joins, windows and Parquet tables.

Written by `loop/ingest`; monitoring and retraining read windows.
"""
