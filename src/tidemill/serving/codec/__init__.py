"""Converts between request bodies, rows, a model's arrays and response bodies.

Used by `serving.model` and `serving.protocols`; knows nothing of HTTP.
"""
