"""Predictions and their labels as Parquet, a file for each model and day (UTC):

    URL/model=churn/day=2026-03-01/predictions.parquet

A day is written again when it has more rows than its file, or other labels; all else is left as it
is. A file appears whole or not at all. What retention has deleted stays in the files: a day of
which the database has fewer rows than the file is not touched.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from sqlalchemy import func, select

from tidemill.errors import SettingsError, UnavailableError
from tidemill.stores.database.database import Database
from tidemill.stores.database.tables import feedback, predictions
from tidemill.stores.predictions.parquet import ParquetLayout, make_layout, make_table
from tidemill.stores.predictions.predictions import LABEL, Predictions

logger = logging.getLogger(__name__)
DAY = 86400
FILE = "predictions.parquet"
MARK = b"tidemill"
CHUNK = 20_000


@dataclass(frozen=True)
class ArchiveDay:
    """One model's day as the database has it; `newest` is when its last label was joined."""

    model: str
    start: float
    rows: int
    labels: int
    newest: float | None

    @property
    def date(self) -> str:
        return datetime.fromtimestamp(self.start, UTC).strftime("%Y-%m-%d")

    @property
    def mark(self) -> bytes:
        """What tells whether a file is of this state."""
        return f"{self.rows} {self.labels} {self.newest!r}".encode()


class PredictionArchive:
    """Writes days to a folder or an object store.

    Args:
        url: A folder, or s3://bucket/prefix, gs://...; for S3 the usual AWS variables hold, and
            MLFLOW_S3_ENDPOINT_URL names another server.

    Raises:
        SettingsError: The URL is of an unknown kind.
    """

    def __init__(self, database: Database, url: str) -> None:
        self._database = database
        self._predictions = Predictions(database)
        self._files, self._root = open_filesystem(url)

    def run(
        self,
        models: Sequence[str] = (),
        *,
        until: float | None = None,
        progress: Callable[[ArchiveDay, int, int], None] = lambda day, number, count: None,
    ) -> list[ArchiveDay]:
        """Write every day that changed; those days, oldest first.

        Args:
            models: Only these; () means all.
            until: Only days that begin before this moment.
            progress: Hears of each day, its number and how many there are.

        Raises:
            UnavailableError: The database or the place cannot be reached. Files that are written
                stay; the next run goes on.
        """
        names = models or self._predictions.models()
        days = [day for model in names for day in self._days(model, until)]
        written = []
        for number, day in enumerate(days):
            progress(day, number, len(days))
            with _translated(self._root):
                if self._needs(day):
                    self._write(day)
                    written.append(day)
        return written

    def before(self, model: str, moment: float) -> None:
        """Write a model's days before a moment; what retention calls before it deletes."""
        self.run([model], until=moment)

    def _days(self, model: str, until: float | None) -> Iterator[ArchiveDay]:
        times = predictions.c.time
        ends = select(func.min(times), func.max(times)).where(predictions.c.model == model)
        with self._database.read() as connection:
            first, last = connection.execute(ends).one()
        if first is None:
            return
        start = first // DAY * DAY
        while start <= last and (until is None or start < until):
            day = self._day(model, start)
            if day.rows:
                yield day
            start += DAY

    def _day(self, model: str, start: float) -> ArchiveDay:
        times = predictions.c.time
        mine = (predictions.c.model == model, times >= start, times < start + DAY)
        rows = select(func.count()).select_from(predictions).where(*mine)
        labels = select(func.count(), func.max(feedback.c.joined)).select_from(predictions)
        with self._database.read() as connection:
            count = int(connection.execute(rows).scalar_one())
            joined = labels.join(feedback, LABEL).where(*mine)
            known, newest = connection.execute(joined).one() if count else (0, None)
        return ArchiveDay(model, start, count, known, newest)

    def _path(self, day: ArchiveDay) -> str:
        return f"{self._root}/model={quote(day.model, safe='')}/day={day.date}"

    def _needs(self, day: ArchiveDay) -> bool:
        path = f"{self._path(day)}/{FILE}"
        if self._files.get_file_info(path).type == pafs.FileType.NotFound:
            return True
        with self._files.open_input_file(path) as file:
            found = pq.ParquetFile(file)
            held, mark = found.metadata.num_rows, (found.schema_arrow.metadata or {}).get(MARK)
        if held > day.rows:
            logger.warning("%s has more rows than the database; it is left alone", path)
            return False
        return bool(mark != day.mark)

    def _write(self, day: ArchiveDay) -> None:
        folder = self._path(day)
        self._files.create_dir(folder, recursive=True)
        draft = f"{folder}/_draft-{secrets.token_hex(6)}"
        signatures = self._predictions.signatures(day.model)
        layout = make_layout(signatures.values(), every=len(signatures) == self._versions(day))
        schema = layout.schema.with_metadata({MARK: day.mark})
        try:
            with (
                self._files.open_output_stream(draft) as sink,
                pq.ParquetWriter(sink, schema, compression="zstd") as writer,
            ):
                self._write_rows(writer, day, layout, schema)
            self._files.move(draft, f"{folder}/{FILE}")
        except BaseException:
            with contextlib.suppress(OSError):
                self._files.delete_file(draft)
            raise

    def _write_rows(
        self, writer: pq.ParquetWriter, day: ArchiveDay, layout: ParquetLayout, schema: pa.Schema
    ) -> None:
        signatures = self._predictions.signatures(day.model)
        chunks = self._predictions.chunks(
            day.model, since=day.start, until=day.start + DAY, size=CHUNK
        )
        for rows in chunks:
            table = make_table(day.model, rows, signatures, layout)
            writer.write_table(table.replace_schema_metadata(schema.metadata))

    def _versions(self, day: ArchiveDay) -> int:
        return len(self._predictions.versions(day.model))


def open_filesystem(url: str) -> tuple[pafs.FileSystem, str]:
    """The file system that a URL is on, and the path there.

    Raises:
        SettingsError: Nothing here can write to such a URL.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3":
        return _s3(), f"{parts.netloc}{parts.path}".rstrip("/")
    if len(parts.scheme) < 2:  # a path, or a drive's letter
        return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(url))
    try:
        files, path = pafs.FileSystem.from_uri(url)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise SettingsError(
            f"'{url}' is no place that can be exported to: {error}",
            field="url",
            expected="a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX",
        ) from error
    return files, path.rstrip("/")


def _s3() -> pafs.FileSystem:
    endpoint = os.environ.get("MLFLOW_S3_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    options: dict[str, Any] = {"region": region} if region else {}
    if endpoint:
        parts = urlsplit(endpoint)
        options |= {"scheme": parts.scheme, "endpoint_override": parts.netloc}
        options.setdefault("region", "us-east-1")
    return pafs.S3FileSystem(**options)


@contextlib.contextmanager
def _translated(root: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnavailableError(
            f"Exporting to {root} failed: {error}",
            remedy="What was written stays; try again when it can be reached.",
        ) from error
