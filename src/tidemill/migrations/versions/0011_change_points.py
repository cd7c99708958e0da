"""Triggers have the change point that their alarm found; older ones have none."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("triggers", sa.Column("changed", sa.Double()))


def downgrade() -> None:
    op.drop_column("triggers", "changed")
