"""The tables of Tidemill's own database. Times are in seconds since the epoch.

A change here needs a migration in `tidemill/migrations/versions`; a test compares the two.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Json = JSON().with_variant(JSONB(), "postgresql")
# SQLite numbers rows automatically only for INTEGER keys.
Serial = BigInteger().with_variant(Integer(), "sqlite")

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(32), primary_key=True),  # sorts by time of creation
    Column("kind", String(32), nullable=False),
    Column("model", String(255)),
    Column("project", Text),  # a project file, or gallery:NAME
    Column("params", Json, nullable=False),
    Column("state", String(16), nullable=False),
    Column("percent", Double, nullable=False, default=0.0),
    Column("stage", Text),
    Column("progress", Json),  # candidate, trial, best metric so far
    Column("result", Json),
    Column("error", Json),
    Column("created", Double, nullable=False),
    Column("updated", Double, nullable=False),
    Column("started", Double),
    Column("finished", Double),
    Column("not_before", Double, nullable=False),  # no worker claims it earlier
    Column("sent", Double),  # when the broker was last told
    Column("attempts", Integer, nullable=False, default=0),  # claims; also the fencing token
    Column("failures", Integer, nullable=False, default=0),  # failures that count towards the limit
    Column("waits", Integer, nullable=False, default=0),  # how often it was given back
    Column("worker", String(255)),
    Column("heartbeat", Double),
    Column("cancel_requested", Boolean, nullable=False, default=False),
    Column("time_limit", Double),  # seconds of running
    Column("memory_limit", BigInteger),  # bytes resident
    Column("idempotency_key", String(255)),
    Column("key_id", String(64)),
    Column("request_id", String(128)),
    Column("parent", String(32)),  # the job that this one is a child of
    Column("traceparent", String(55)),  # the span that requested it
    UniqueConstraint("idempotency_key"),
    Index("ix_jobs_state", "state", "not_before"),
    Index("ix_jobs_model", "model", "id"),
    Index("ix_jobs_parent", "parent"),
)

audit = Table(
    "audit",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),  # 1, 2, 3 ... without a gap
    Column("time", Double, nullable=False),
    Column("actor", String(255), nullable=False),
    Column("action", String(64), nullable=False),
    Column("subject", String(255)),  # the model, key or table acted on
    Column("version", String(64)),
    Column("origin", String(255)),  # the address or command that requested it
    Column("reason", Text),
    Column("details", JSON(), nullable=False),  # not JSONB, which would change the hashed text
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Index("ix_audit_subject", "subject", "seq"),
)

request_log = Table(
    "request_log",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("time", Double, nullable=False),
    Column("method", String(16), nullable=False),
    Column("route", String(255), nullable=False),  # the template, not the path
    Column("path", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("milliseconds", Double, nullable=False),
    Column("address", String(64)),
    Column("key_id", String(64)),
    Column("request_id", String(128)),
    Index("ix_request_log_time", "time"),
    Index("ix_request_log_route", "route", "id"),
)

api_metrics = Table(
    "api_metrics",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("minute", Double, nullable=False),
    Column("method", String(16), nullable=False),
    Column("route", String(255), nullable=False),
    Column("status", Integer, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("milliseconds", Double, nullable=False),  # the sum
    Column("slowest", Double, nullable=False),
    UniqueConstraint("minute", "method", "route", "status"),
)

model_metrics = Table(
    "model_metrics",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("time", Double, nullable=False),
    Column("model", String(255), nullable=False),
    Column("version", String(64)),
    Column("metric", String(64), nullable=False),
    Column("value", Double, nullable=False),
    Column("low", Double),  # confidence interval, where there is one
    Column("high", Double),
    Column("rows", BigInteger),
    Column("source", String(32), nullable=False),  # training, gate, live, estimate
    Column("run_id", String(64)),
    Index("ix_model_metrics_model", "model", "metric", "time"),
    Index("ix_model_metrics_time", "time"),
)

predictions = Table(
    "predictions",
    metadata,
    # An id is one answered row. A challenger in shadow mode answers under the same id.
    Column("id", String(64), primary_key=True),
    Column("version", String(64), primary_key=True),
    Column("time", Double, nullable=False),
    Column("model", String(255), nullable=False),
    Column("role", String(16), nullable=False, default="champion"),  # or shadow, canary, probe
    Column("encoding", String(8), nullable=False),  # f4, f8, values, none: as in the journal
    Column("features", LargeBinary),  # null if the model's inputs are not recorded
    Column("output", Text, nullable=False),  # JSON
    Column("probabilities", LargeBinary),  # little-endian float32, in the order of the labels
    Column("confidence", Double),
    Column("milliseconds", Double),
    Column("weight", Double, nullable=False, default=1.0),  # 1 / the share that is recorded
    Column("request_id", String(128)),
    Column("key_id", String(64)),
    Index("ix_predictions_model", "model", "time"),
)

served_versions = Table(
    "served_versions",
    metadata,
    Column("model", String(255), primary_key=True),
    Column("version", String(64), primary_key=True),
    Column("signature", Json),  # null until ingest finds it
    Column("first_seen", Double, nullable=False),
)

#: Partial indexes are used only by queries with this literal text, not with a parameter.
JOINED, WAITING = text("outcome = 'joined'"), text("outcome = 'waiting'")

feedback = Table(
    "feedback",
    metadata,
    Column("id", Serial, primary_key=True),  # the order of arrival
    Column("prediction_id", String(64), nullable=False),
    Column("model", String(255)),  # null until the prediction arrives
    Column("actual", Text, nullable=False),  # JSON
    Column("time", Double, nullable=False),
    Column("joined", Double),  # when both the label and its prediction had arrived
    Column("outcome", String(16), nullable=False),  # see tidemill.stores.predictions.label_joins
    Column("replaces", Boolean, nullable=False, default=False),  # corrects an earlier label
    Column("reason", Text),  # why it was refused
    Column("key_id", String(64)),
    Index("ix_feedback_prediction", "prediction_id"),
    Index("ix_feedback_time", "time"),
    Index(
        "ix_feedback_truth",
        "prediction_id",
        unique=True,
        sqlite_where=JOINED,
        postgresql_where=JOINED,
    ),
    Index("ix_feedback_joined", "model", "joined", sqlite_where=JOINED, postgresql_where=JOINED),
    Index("ix_feedback_waiting", "time", sqlite_where=WAITING, postgresql_where=WAITING),
)

journal_offsets = Table(
    "journal_offsets",
    metadata,
    Column("segment", String(255), primary_key=True),
    Column("offset", BigInteger, nullable=False),
    Column("updated", Double, nullable=False),
)

drift_results = Table(
    "drift_results",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("time", Double, nullable=False),
    Column("model", String(255), nullable=False),
    Column("version", String(64), nullable=False),
    Column("feature", String(255)),  # null: the result for the whole window
    Column("test", String(64), nullable=False),
    Column("statistic", Double),
    Column("p_value", Double),
    Column("effect", Double),
    Column("drifted", Boolean, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("window_start", Double),
    Column("window_end", Double),
    Column("details", Json),
    Index("ix_drift_results_model", "model", "id"),
)

#: Partial indexes are used only by queries with this literal text, not with a parameter.
OPEN, UNDER_WAY = text("closed IS NULL"), text("closed IS NULL AND retrains")

triggers = Table(
    "triggers",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("time", Double, nullable=False),
    Column("model", String(255), nullable=False),
    Column("version", String(64)),
    Column("cause", String(32), nullable=False),  # see tidemill.policies.Cause
    Column("cause_key", String(255)),  # the same cause opens one trigger only
    Column("state", String(32), nullable=False),  # see tidemill.stores.monitoring.triggers
    Column("retrains", Boolean, nullable=False, default=False),
    Column("actor", String(255)),  # who requested it, if a person did
    Column("reason", Text),
    Column("evidence", Json),
    Column("job_id", String(32)),
    Column("closed", Double),
    Column("changed", Double),  # the change point that the alarm found
    UniqueConstraint("model", "cause_key"),
    Index("ix_triggers_model", "model", "id"),
    # At most one open trigger per cause, even if two processes open one at the same time.
    Index(
        "ix_triggers_open",
        "model",
        "cause",
        unique=True,
        sqlite_where=OPEN,
        postgresql_where=OPEN,
    ),
    # A model has at most one retraining at a time.
    Index(
        "ix_triggers_under_way",
        "model",
        unique=True,
        sqlite_where=UNDER_WAY,
        postgresql_where=UNDER_WAY,
    ),
)

contests = Table(
    "contests",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("model", String(255), nullable=False),
    Column("trigger_id", String(32)),
    Column(
        "job_id", String(32), unique=True
    ),  # a job opens one contest, however often it is retried
    Column("champion", String(64), nullable=False),
    Column("challengers", Json, nullable=False),
    Column(
        "cut", Double, nullable=False
    ),  # later predictions are compared, earlier ones trained on
    Column("changed", Double),  # the time of the prediction at which a change is estimated
    Column("learned", Integer, nullable=False),  # labelled rows since then, or all of them
    Column("scale", Double, nullable=False),
    Column("opened", Double, nullable=False),
    Column("state", String(16), nullable=False),  # open, won, kept
    Column("rows", Integer, nullable=False, default=0),
    Column("decision", Json),
    Column("winner", String(64)),
    Column("closed", Double),
    Index("ix_contests_model", "model", "id"),
    Index("ix_contests_open", "model", unique=True, sqlite_where=OPEN, postgresql_where=OPEN),
)

notices = Table(
    "notices",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("time", Double, nullable=False),
    Column("event", String(32), nullable=False),  # trigger.opened, trigger.closed
    Column("body", Json, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("not_before", Double, nullable=False),
    Column("delivered", Double),
    Column("error", Text),  # of the last attempt
    Index("ix_notices_due", "delivered", "not_before"),
)

ended_sessions = Table(
    "ended_sessions",
    metadata,
    Column("nonce", String(32), primary_key=True),  # of the session's cookie
    Column("until", Double, nullable=False),  # when every cookie of the session has expired
)

watches = Table(
    "watches",
    metadata,
    Column("model", String(255), primary_key=True),
    Column("version", String(64), nullable=False),  # the champion of this state
    Column("state", Json, nullable=False),  # see tidemill.loop.monitoring.watcher
    Column("verdict", Json),  # the last one, in the form that is shown
    Column("updated", Double, nullable=False),
)

monitor_results = Table(
    "monitor_results",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("time", Double, nullable=False),
    Column("target", Text, nullable=False),
    Column("probe", String(32), nullable=False),  # health, predict
    Column("healthy", Boolean, nullable=False),
    Column("status", Integer),
    Column("milliseconds", Double),
    Column("error", Text),
    Index("ix_monitor_results_time", "time"),
)
