"""The first schema: jobs, audit, requests, predictions, feedback, drift, triggers."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def Json() -> sa.types.TypeEngine[Any]:  # noqa: N802
    return sa.JSON().with_variant(JSONB(), "postgresql")


def Serial() -> sa.types.TypeEngine[Any]:  # noqa: N802
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "api_metrics",
        sa.Column("id", Serial(), nullable=False),
        sa.Column("minute", sa.Double(), nullable=False),
        sa.Column("method", sa.String(length=16), nullable=False),
        sa.Column("route", sa.String(length=255), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("milliseconds", sa.Double(), nullable=False),
        sa.Column("slowest", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_api_metrics"),
        sa.UniqueConstraint(
            "minute", "method", "route", "status", name="uq_api_metrics_minute_method_route_status"
        ),
    )
    op.create_table(
        "audit",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("actor", sa.String(length=255), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=255)),
        sa.Column("version", sa.String(length=64)),
        sa.Column("origin", sa.String(length=255)),
        sa.Column("reason", sa.Text()),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("previous", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_audit"),
    )
    op.create_index("ix_audit_subject", "audit", ["subject", "seq"])
    op.create_table(
        "drift_results",
        sa.Column("id", Serial(), nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("model", sa.String(length=255), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("feature", sa.String(length=255)),
        sa.Column("test", sa.String(length=64), nullable=False),
        sa.Column("statistic", sa.Double()),
        sa.Column("p_value", sa.Double()),
        sa.Column("effect", sa.Double()),
        sa.Column("drifted", sa.Boolean(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("window_start", sa.Double()),
        sa.Column("window_end", sa.Double()),
        sa.Column("details", Json()),
        sa.PrimaryKeyConstraint("id", name="pk_drift_results"),
    )
    op.create_index("ix_drift_results_model", "drift_results", ["model", "id"])
    op.create_table(
        "feedback",
        sa.Column("id", Serial(), nullable=False),
        sa.Column("prediction_id", sa.String(length=64), nullable=False),
        sa.Column("actual", Json(), nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("key_id", sa.String(length=64)),
        sa.PrimaryKeyConstraint("id", name="pk_feedback"),
    )
    op.create_index("ix_feedback_prediction", "feedback", ["prediction_id"])
    op.create_index("ix_feedback_time", "feedback", ["time"])
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("model", sa.String(length=255)),
        sa.Column("project", sa.Text()),
        sa.Column("params", Json(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("percent", sa.Double(), nullable=False),
        sa.Column("stage", sa.Text()),
        sa.Column("progress", Json()),
        sa.Column("result", Json()),
        sa.Column("error", Json()),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("updated", sa.Double(), nullable=False),
        sa.Column("started", sa.Double()),
        sa.Column("finished", sa.Double()),
        sa.Column("not_before", sa.Double(), nullable=False),
        sa.Column("sent", sa.Double()),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("waits", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(length=255)),
        sa.Column("heartbeat", sa.Double()),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("time_limit", sa.Double()),
        sa.Column("memory_limit", sa.BigInteger()),
        sa.Column("idempotency_key", sa.String(length=255)),
        sa.Column("key_id", sa.String(length=64)),
        sa.Column("request_id", sa.String(length=128)),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.UniqueConstraint("idempotency_key", name="uq_jobs_idempotency_key"),
    )
    op.create_index("ix_jobs_model", "jobs", ["model", "id"])
    op.create_index("ix_jobs_state", "jobs", ["state", "not_before"])
    op.create_table(
        "journal_offsets",
        sa.Column("segment", sa.String(length=255), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("updated", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("segment", name="pk_journal_offsets"),
    )
    op.create_table(
        "model_metrics",
        sa.Column("id", Serial(), nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("model", sa.String(length=255), nullable=False),
        sa.Column("version", sa.String(length=64)),
        sa.Column("metric", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("low", sa.Double()),
        sa.Column("high", sa.Double()),
        sa.Column("rows", sa.BigInteger()),
        sa.Column("source", sa.String(length=32), nullable=False),
        sa.Column("run_id", sa.String(length=64)),
        sa.PrimaryKeyConstraint("id", name="pk_model_metrics"),
    )
    op.create_index("ix_model_metrics_model", "model_metrics", ["model", "metric", "time"])
    op.create_index("ix_model_metrics_time", "model_metrics", ["time"])
    op.create_table(
        "monitor_results",
        sa.Column("id", Serial(), nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("probe", sa.String(length=32), nullable=False),
        sa.Column("healthy", sa.Boolean(), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("milliseconds", sa.Double()),
        sa.Column("error", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_monitor_results"),
    )
    op.create_index("ix_monitor_results_time", "monitor_results", ["time"])
    op.create_table(
        "predictions",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("model", sa.String(length=255), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("features", Json()),
        sa.Column("output", Json(), nullable=False),
        sa.Column("confidence", sa.Double()),
        sa.Column("milliseconds", sa.Double()),
        sa.Column("request_id", sa.String(length=128)),
        sa.Column("key_id", sa.String(length=64)),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_predictions"),
    )
    op.create_index("ix_predictions_model", "predictions", ["model", "time"])
    op.create_index("ix_predictions_time", "predictions", ["time"])
    op.create_table(
        "request_log",
        sa.Column("id", Serial(), nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("method", sa.String(length=16), nullable=False),
        sa.Column("route", sa.String(length=255), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("milliseconds", sa.Double(), nullable=False),
        sa.Column("address", sa.String(length=64)),
        sa.Column("key_id", sa.String(length=64)),
        sa.Column("request_id", sa.String(length=128)),
        sa.PrimaryKeyConstraint("id", name="pk_request_log"),
    )
    op.create_index("ix_request_log_route", "request_log", ["route", "id"])
    op.create_index("ix_request_log_time", "request_log", ["time"])
    op.create_table(
        "triggers",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("model", sa.String(length=255), nullable=False),
        sa.Column("version", sa.String(length=64)),
        sa.Column("cause", sa.String(length=32), nullable=False),
        sa.Column("cause_key", sa.String(length=255)),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("evidence", Json()),
        sa.Column("job_id", sa.String(length=32)),
        sa.Column("closed", sa.Double()),
        sa.PrimaryKeyConstraint("id", name="pk_triggers"),
        sa.UniqueConstraint("model", "cause_key", name="uq_triggers_model_cause_key"),
    )
    op.create_index("ix_triggers_model", "triggers", ["model", "id"])


def downgrade() -> None:
    op.drop_table("triggers")
    op.drop_table("request_log")
    op.drop_table("predictions")
    op.drop_table("monitor_results")
    op.drop_table("model_metrics")
    op.drop_table("journal_offsets")
    op.drop_table("jobs")
    op.drop_table("feedback")
    op.drop_table("drift_results")
    op.drop_table("audit")
    op.drop_table("api_metrics")
