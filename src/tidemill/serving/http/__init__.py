"""HTTP: uvicorn, the fast protocol, routing, API keys, rate limits, and sending responses.

Used by `serving/protocols`, `serving/model` and `serving/service.py`; `server.py` runs it.
"""
