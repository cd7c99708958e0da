"""Deletes predictions that are old or too many, with their labels, after an export where set."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import Connection, delete, select

from tidemill.settings import Settings
from tidemill.stores.database.database import Database
from tidemill.stores.database.tables import feedback, predictions
from tidemill.stores.predictions.feedback import Feedback, lock_labels
from tidemill.stores.predictions.predictions import Predictions, matches_any

logger = logging.getLogger(__name__)
CHUNK = 5_000  # rows of one transaction, so that nobody waits long
EVERY_SECONDS = 60.0
DAY = 86400.0
#: Puts a model's predictions before a moment somewhere safe; raises where it cannot.
Export = Callable[[str, float], None]


@dataclass
class Retention:
    """How long predictions are kept. Labels go with their predictions.

    Attributes:
        days: Older predictions go; 0 keeps them for ever.
        rows: Of each model the newest so many stay, and those of the same instant; 0 keeps all.
        wait: Seconds that a label waits for its prediction.
        export: Called before anything of a model is deleted; where it fails, nothing is.
    """

    database: Database
    days: float = 0.0
    rows: int = 0
    wait: float = 7 * DAY
    export: Export | None = None
    _due: float = field(default=0.0, repr=False)

    @classmethod
    def from_settings(cls, settings: Settings, database: Database) -> Retention:
        """As the settings have it."""
        export = None
        if settings.export_url is not None:
            from tidemill.loop.ingest.archive import PredictionArchive as Exporting

            export = Exporting(database, settings.export_url).before
        days, rows = settings.retention_days, settings.retention_rows
        return cls(database, days, rows, settings.feedback_wait, export)

    def apply_if_due(self, stop: threading.Event) -> bool:
        """Apply it when it is due, once a minute, and say so; `stop` ends it between two chunks."""
        if time.monotonic() < self._due:
            return False
        self._due = time.monotonic() + EVERY_SECONDS
        deleted = self.apply(stop)
        if deleted:
            logger.info("%d predictions were old enough to go", deleted)
        return True

    def apply(self, stop: threading.Event | None = None) -> int:
        """Expire labels that wait in vain and delete what is to go; how many predictions went.

        Raises:
            UnavailableError: The database, or where exports go, cannot be reached.
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
        """The moment before which the model's predictions go; None where none are so old."""
        by_age = now - self.days * DAY if self.days else 0.0
        table = predictions.c
        mine = select(table.time).where(table.model == model)
        newest = mine.order_by(table.time.desc()).offset(max(0, self.rows - 1)).limit(1)
        with self.database.read() as connection:
            nth = connection.execute(newest).scalar() if self.rows else None
            cutoff = max(by_age, nth or 0.0)
            if self.export is not None:
                cutoff = cutoff // DAY * DAY  # files are of whole days
            oldest = connection.execute(mine.order_by(table.time).limit(1)).scalar()
        return cutoff if oldest is not None and oldest < cutoff else None

    def _delete(self, model: str, before: float, stop: threading.Event) -> int:
        if self.export is not None:
            self.export(model, before)
        deleted = 0
        while not stop.is_set():
            with self.database.write() as connection:
                gone = _delete_chunk(connection, model, before)
            deleted += gone
            if gone < CHUNK:
                break
        return deleted

    def _delete_orphans(self, before: float) -> None:
        """Labels that never met a prediction go by their own age."""
        old = (feedback.c.outcome == "expired", feedback.c.time < before)
        with self.database.write() as connection:
            connection.execute(delete(feedback).where(*old))


def _delete_chunk(connection: Connection, model: str, before: float) -> int:
    lock_labels(connection)
    table = predictions.c
    oldest = select(table.id).where(table.model == model, table.time < before)
    found = connection.execute(oldest.order_by(table.time).limit(CHUNK)).scalars().all()
    ids = sorted(set(found))
    mine = (matches_any(connection, table.id, ids), table.model == model, table.time < before)
    gone = connection.execute(delete(predictions).where(*mine)).rowcount
    left = select(table.id).where(matches_any(connection, table.id, ids))
    orphans = matches_any(connection, feedback.c.prediction_id, ids)
    connection.execute(delete(feedback).where(orphans, feedback.c.prediction_id.not_in(left)))
    return gone
