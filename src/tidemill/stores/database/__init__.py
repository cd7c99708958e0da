"""Tidemill's own database: engine, tables, schema migrations, dumps and shared parts of queries.

Used by the other stores; the migration scripts are in `tidemill/migrations`.
"""
