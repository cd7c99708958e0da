"""The monitoring state of each model, the actor of a trigger, and webhook notices."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0007"
down_revision = "0005"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(JSONB(), "postgresql")
OPEN, UNDER_WAY = sa.text("closed IS NULL"), sa.text("closed IS NULL AND retrains")


def upgrade() -> None:
    op.add_column(
        "triggers",
        sa.Column("retrains", sa.Boolean(), nullable=False, server_default=sa.false()),
    )
    op.add_column("triggers", sa.Column("actor", sa.String(length=255)))
    op.create_index(
        "ix_triggers_open",
        "triggers",
        ["model", "cause"],
        unique=True,
        sqlite_where=OPEN,
        postgresql_where=OPEN,
    )
    op.create_index(
        "ix_triggers_under_way",
        "triggers",
        ["model"],
        unique=True,
        sqlite_where=UNDER_WAY,
        postgresql_where=UNDER_WAY,
    )
    op.create_table(
        "notices",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("body", JSON, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.Double(), nullable=False),
        sa.Column("delivered", sa.Double()),
        sa.Column("error", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_notices"),
    )
    op.create_index("ix_notices_due", "notices", ["delivered", "not_before"])
    op.create_table(
        "watches",
        sa.Column("model", sa.String(length=255), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("state", JSON, nullable=False),
        sa.Column("verdict", JSON),
        sa.Column("updated", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("model", name="pk_watches"),
    )


def downgrade() -> None:
    op.drop_table("watches")
    op.drop_index("ix_notices_due", "notices")
    op.drop_table("notices")
    op.drop_index("ix_triggers_under_way", "triggers")
    op.drop_index("ix_triggers_open", "triggers")
    op.drop_column("triggers", "actor")
    op.drop_column("triggers", "retrains")
