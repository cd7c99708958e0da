"""Alembic migrations of Tidemill's own database, run by `tidemill.stores.database.schema`."""
