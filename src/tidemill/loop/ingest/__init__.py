"""Recording: moves the journal into the database, applies retention and writes the archive.

`process` is the ingest process; the tables are in `stores/predictions`.
"""
