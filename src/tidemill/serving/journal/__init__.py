"""The journal: an append-only record of predictions on local disk, from which ingest reads.

`journal` writes, `segments` defines the format and reads. Imports nothing else of `serving`.
"""
