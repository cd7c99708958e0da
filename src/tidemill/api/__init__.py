"""The control plane's HTTP API (FastAPI). `app` builds it, `routes/` has one module per subject.

The data plane's API is in `serving/`, the pages for people in `console/`.
"""
