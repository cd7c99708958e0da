"""Run by Alembic for each command, inside `tidemill.stores.database.schema`'s transaction."""

from __future__ import annotations

from alembic import context

from tidemill.stores.database.schema import VERSION_TABLE
from tidemill.stores.database.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=False,  # the transaction is the caller's, not Alembic's
    render_as_batch=True,
)
context.run_migrations()
