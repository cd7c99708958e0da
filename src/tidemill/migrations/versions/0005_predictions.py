"""Predictions as in the journal, the versions they are from, and labels that wait for them.

Nothing was written to the two tables before this version, so they are recreated.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0005"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_table("predictions")
    op.drop_table("feedback")
    op.create_table(
        "predictions",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("model", sa.String(length=255), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("encoding", sa.String(length=8), nullable=False),
        sa.Column("features", sa.LargeBinary()),
        sa.Column("output", sa.Text(), nullable=False),
        sa.Column("probabilities", sa.LargeBinary()),
        sa.Column("confidence", sa.Double()),
        sa.Column("milliseconds", sa.Double()),
        sa.Column("weight", sa.Double(), nullable=False),
        sa.Column("request_id", sa.String(length=128)),
        sa.Column("key_id", sa.String(length=64)),
        sa.PrimaryKeyConstraint("id", "version", name="pk_predictions"),
    )
    op.create_index("ix_predictions_model", "predictions", ["model", "time"])
    op.create_table(
        "served_versions",
        sa.Column("model", sa.String(length=255), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("signature", _json()),
        sa.Column("first_seen", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("model", "version", name="pk_served_versions"),
    )
    op.create_table(
        "feedback",
        sa.Column("id", _serial(), nullable=False),
        sa.Column("prediction_id", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=255)),
        sa.Column("actual", sa.Text(), nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("joined", sa.Double()),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("replaces", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("key_id", sa.String(length=64)),
        sa.PrimaryKeyConstraint("id", name="pk_feedback"),
    )
    op.create_index("ix_feedback_prediction", "feedback", ["prediction_id"])
    op.create_index("ix_feedback_time", "feedback", ["time"])
    _partial_index("ix_feedback_truth", ["prediction_id"], "joined", unique=True)
    _partial_index("ix_feedback_joined", ["model", "joined"], "joined")
    _partial_index("ix_feedback_waiting", ["time"], "waiting")


def downgrade() -> None:
    for table in ("feedback", "served_versions", "predictions"):
        op.drop_table(table)
    op.create_table(
        "feedback",
        sa.Column("id", _serial(), nullable=False),
        sa.Column("prediction_id", sa.String(length=64), nullable=False),
        sa.Column("actual", _json(), nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("key_id", sa.String(length=64)),
        sa.PrimaryKeyConstraint("id", name="pk_feedback"),
    )
    op.create_index("ix_feedback_prediction", "feedback", ["prediction_id"])
    op.create_index("ix_feedback_time", "feedback", ["time"])
    op.create_table(
        "predictions",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("model", sa.String(length=255), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("features", _json()),
        sa.Column("output", _json(), nullable=False),
        sa.Column("confidence", sa.Double()),
        sa.Column("milliseconds", sa.Double()),
        sa.Column("request_id", sa.String(length=128)),
        sa.Column("key_id", sa.String(length=64)),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_predictions"),
    )
    op.create_index("ix_predictions_model", "predictions", ["model", "time"])
    op.create_index("ix_predictions_time", "predictions", ["time"])


def _partial_index(name: str, columns: list[str], outcome: str, *, unique: bool = False) -> None:
    where = sa.text(f"outcome = '{outcome}'")
    op.create_index(
        name, "feedback", columns, unique=unique, sqlite_where=where, postgresql_where=where
    )


def _json() -> sa.types.TypeEngine[Any]:
    return sa.JSON().with_variant(JSONB(), "postgresql")


def _serial() -> sa.types.TypeEngine[Any]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")
