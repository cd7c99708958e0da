"""Requests and responses: routing, API keys, rate limits, the dispatcher and the batch commit.

Used by `serving/protocols`, `serving/model` and `serving/service.py`.
Sockets are read in `serving/server`.
"""
