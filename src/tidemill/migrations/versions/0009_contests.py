"""Contests: the versions that compete to become champion, and the result."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0009"
down_revision = "0007"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(JSONB(), "postgresql")
OPEN = sa.text("closed IS NULL")


def upgrade() -> None:
    op.create_table(
        "contests",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("model", sa.String(length=255), nullable=False),
        sa.Column("trigger_id", sa.String(length=32)),
        sa.Column("job_id", sa.String(length=32)),
        sa.Column("champion", sa.String(length=64), nullable=False),
        sa.Column("challengers", JSON, nullable=False),
        sa.Column("cut", sa.Double(), nullable=False),
        sa.Column("changed", sa.Double()),
        sa.Column("learned", sa.Integer(), nullable=False),
        sa.Column("scale", sa.Double(), nullable=False),
        sa.Column("opened", sa.Double(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("decision", JSON),
        sa.Column("winner", sa.String(length=64)),
        sa.Column("closed", sa.Double()),
        sa.PrimaryKeyConstraint("id", name="pk_contests"),
        sa.UniqueConstraint("job_id", name="uq_contests_job_id"),
    )
    op.create_index("ix_contests_model", "contests", ["model", "id"])
    op.create_index(
        "ix_contests_open",
        "contests",
        ["model"],
        unique=True,
        sqlite_where=OPEN,
        postgresql_where=OPEN,
    )


def downgrade() -> None:
    op.drop_index("ix_contests_open", "contests")
    op.drop_index("ix_contests_model", "contests")
    op.drop_table("contests")
