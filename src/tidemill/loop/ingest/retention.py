"""Deletes old or surplus predictions with their labels, after archiving them if configured."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import Connection, delete, select

from tidemill.settings import Settings
from tidemill.stores.database.database import Database
from tidemill.stores.database.queries import matches_any
from tidemill.stores.database.tables import feedback, predictions
from tidemill.stores.predictions.feedback import Feedback
from tidemill.stores.predictions.label_joins import lock_labels
from tidemill.stores.predictions.predictions import Predictions

logger = logging.getLogger(__name__)
CHUNK_ROWS = 5_000  # deleted in one transaction, so that other writers do not wait long
EVERY_SECONDS = 60.0
DAY = 86400.0
#: Archives a model's predictions before a time; raises if it fails.
ArchiveBefore = Callable[[str, float], None]


@dataclass
class Retention:
    """Which predictions are kept. Labels are deleted with their predictions.

    Attributes:
        days: Older predictions are deleted; 0 keeps them for ever.
        rows: How many predictions of each model are kept, the newest, with all others of the same
            instant; 0 keeps all.
        wait: Seconds that a label waits for its prediction before it expires.
        archive: Called before predictions of a model are deleted; if it fails, none are.
    """

    database: Database
    days: float = 0.0
    rows: int = 0
    wait: float = 7 * DAY
    archive: ArchiveBefore | None = None
    _due: float = field(default=0.0, repr=False)

    @classmethod
    def from_settings(cls, settings: Settings, database: Database) -> Retention:
        """Return the retention that the settings configure."""
        archive = None
        if settings.export_url is not None:
            from tidemill.loop.ingest.archive import PredictionArchive

            archive = PredictionArchive(database, settings.export_url).write_before
        days, rows = settings.retention_days, settings.retention_rows
        return cls(database, days, rows, settings.feedback_wait, archive)

    def apply_if_due(self, stop: threading.Event) -> bool:
        """Apply the retention if it is due, once a minute; whether it was.

        Args:
            stop: Ends it between two transactions.
        """
        if time.monotonic() < self._due:
            return False
        self._due = time.monotonic() + EVERY_SECONDS
        deleted = self.apply(stop)
        if deleted:
            logger.info("%d predictions deleted", deleted)
        return True

    def apply(self, stop: threading.Event | None = None) -> int:
        """Expire labels that have waited too long and delete surplus predictions.

        Returns:
            How many predictions were deleted.

        Raises:
            UnavailableError: The database or the archive cannot be reached.
        """
        now = self.database.now()
        Feedback(self.database).expire(now - self.wait)
        deleted = 0
        for model in Predictions(self.database).models():
            before = self._cutoff(model, now)
            if before is not None:
                deleted += self._delete(model, before, stop or threading.Event())
        if self.days:
            self._delete_orphans(now - self.days * DAY)
        return deleted

    def _cutoff(self, model: str, now: float) -> float | None:
        """Return the time before which the model's predictions are deleted; None for none."""
        by_age = now - self.days * DAY if self.days else 0.0
        table = predictions.c
        mine = select(table.time).where(table.model == model)
        newest = mine.order_by(table.time.desc()).offset(max(0, self.rows - 1)).limit(1)
        with self.database.read() as connection:
            nth = connection.execute(newest).scalar() if self.rows else None
            cutoff = max(by_age, nth or 0.0)
            if self.archive is not None:
                cutoff = cutoff // DAY * DAY  # the archive has one file per day
            oldest = connection.execute(mine.order_by(table.time).limit(1)).scalar()
        return cutoff if oldest is not None and oldest < cutoff else None

    def _delete(self, model: str, before: float, stop: threading.Event) -> int:
        if self.archive is not None:
            self.archive(model, before)
        deleted = 0
        while not stop.is_set():
            with self.database.write() as connection:
                count = _delete_chunk(connection, model, before)
            deleted += count
            if count < CHUNK_ROWS:
                break
        return deleted

    def _delete_orphans(self, before: float) -> None:
        """Delete old labels whose prediction never arrived."""
        old = (feedback.c.outcome == "expired", feedback.c.time < before)
        with self.database.write() as connection:
            connection.execute(delete(feedback).where(*old))


def _delete_chunk(connection: Connection, model: str, before: float) -> int:
    lock_labels(connection)
    table = predictions.c
    oldest = select(table.id).where(table.model == model, table.time < before)
    found = connection.execute(oldest.order_by(table.time).limit(CHUNK_ROWS)).scalars().all()
    ids = sorted(set(found))
    mine = (matches_any(connection, table.id, ids), table.model == model, table.time < before)
    count = connection.execute(delete(predictions).where(*mine)).rowcount
    left = select(table.id).where(matches_any(connection, table.id, ids))
    orphans = matches_any(connection, feedback.c.prediction_id, ids)
    connection.execute(delete(feedback).where(orphans, feedback.c.prediction_id.not_in(left)))
    return count
