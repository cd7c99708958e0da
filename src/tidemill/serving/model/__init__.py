"""Versions in service: loading, batching, running, caching and recording, and challengers.

`pool` finds the predictor for a request. Used by `serving.protocols`; built by `serving.service`.
"""
