"""Archives predictions and their labels as Parquet, one file for each model and day (UTC):

    URL/model=churn/day=2026-03-01/predictions.parquet

A day is rewritten only if the database has more rows than its file, or other labels. A file appears
complete or not at all; a damaged one is renamed to `_damaged-...` and written again. Rows that
retention has deleted stay in the files: a day with fewer rows in the database than in its file is
not rewritten. See decision 093.
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
CHUNK_ROWS = 20_000
FOOTER_END = 8  # bytes: the length of the footer, and the magic


@dataclass(frozen=True)
class ArchiveDay:
    """A model's predictions of one day in the database; `newest` is its last label's join time."""

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
        """The state of the day, stored in its file to tell whether the file is up to date."""
        return f"{self.rows} {self.labels} {self.newest!r}".encode()


class PredictionArchive:
    """Writes days to a folder or an object store.

    Args:
        url: A folder, s3://bucket/prefix or gs://...; S3 uses the standard AWS variables, and
            MLFLOW_S3_ENDPOINT_URL for another server.

    Raises:
        SettingsError: The URL is not supported.
    """

    def __init__(self, database: Database, url: str) -> None:
        self._database = database
        self._predictions = Predictions(database)
        self._filesystem, self._root = open_filesystem(url)

    def run(
        self,
        models: Sequence[str] = (),
        *,
        until: float | None = None,
        progress: Callable[[ArchiveDay, int, int], None] = lambda day, number, count: None,
    ) -> list[ArchiveDay]:
        """Write every day that changed and return those days, oldest first.

        Args:
            models: Only these models; () for all.
            until: Only days that start before this time, in seconds since the epoch.
            progress: Called with each day, its number and the number of days.

        Raises:
            UnavailableError: The database or the archive cannot be reached. Files written so far
                stay, and the next run continues after them.
        """
        names = models or self._predictions.models()
        days = [day for model in names for day in self._days(model, until)]
        written = []
        for number, day in enumerate(days):
            progress(day, number, len(days))
            with _translated(self._root):
                if self._is_outdated(day):
                    self._write(day)
                    written.append(day)
        return written

    def write_before(self, model: str, time: float) -> None:
        """Write a model's days before a time; retention calls this before it deletes them."""
        self.run([model], until=time)

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

    def _is_outdated(self, day: ArchiveDay) -> bool:
        path = f"{self._path(day)}/{FILE}"
        if self._filesystem.get_file_info(path).type == pafs.FileType.NotFound:
            return True
        with self._filesystem.open_input_file(path) as file:
            footer = _footer(file)
        try:
            archived = pq.ParquetFile(pa.BufferReader(footer))
        except (pa.ArrowException, OSError) as error:  # of bytes in memory: they are damaged
            self._set_aside(path, error)
            return True
        rows = archived.metadata.num_rows
        mark = (archived.schema_arrow.metadata or {}).get(MARK)
        if rows > day.rows:
            logger.warning("%s has more rows than the database; it is not rewritten", path)
            return False
        return bool(mark != day.mark)

    def _set_aside(self, path: str, error: Exception) -> None:
        """Rename a damaged file, so that its day is written again from the database."""
        kept = f"{path.removesuffix(FILE)}_damaged-{secrets.token_hex(6)}"
        self._filesystem.move(path, kept)
        logger.error("%s is damaged and kept as %s: %s", path, kept, error)

    def _write(self, day: ArchiveDay) -> None:
        folder = self._path(day)
        self._filesystem.create_dir(folder, recursive=True)
        draft = f"{folder}/_draft-{secrets.token_hex(6)}"
        signatures = self._predictions.signatures(day.model)
        layout = make_layout(signatures.values(), every=len(signatures) == self._versions(day))
        schema = layout.schema.with_metadata({MARK: day.mark})
        try:
            with (
                self._filesystem.open_output_stream(draft) as sink,
                pq.ParquetWriter(
                    sink, schema, compression="zstd", write_page_checksum=True
                ) as writer,
            ):
                self._write_rows(writer, day, layout, schema)
            self._filesystem.move(draft, f"{folder}/{FILE}")
        except BaseException:
            with contextlib.suppress(OSError):
                self._filesystem.delete_file(draft)
            raise

    def _write_rows(
        self, writer: pq.ParquetWriter, day: ArchiveDay, layout: ParquetLayout, schema: pa.Schema
    ) -> None:
        signatures = self._predictions.signatures(day.model)
        chunks = self._predictions.chunks(
            day.model, since=day.start, until=day.start + DAY, size=CHUNK_ROWS
        )
        for rows in chunks:
            table = make_table(day.model, rows, signatures, layout)
            writer.write_table(table.replace_schema_metadata(schema.metadata))

    def _versions(self, day: ArchiveDay) -> int:
        return len(self._predictions.versions(day.model))


def _footer(file: pa.NativeFile) -> bytes:
    """The end of a Parquet file, which describes it."""
    size = file.size()
    file.seek(max(0, size - FOOTER_END))
    length = int.from_bytes(file.read()[:4], "little")
    file.seek(max(0, size - FOOTER_END - length))
    return b"PAR1" + bytes(file.read())


def open_filesystem(url: str) -> tuple[pafs.FileSystem, str]:
    """Return the file system of a URL, and the path in it.

    Raises:
        SettingsError: The URL is not supported.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3":
        return _s3(), f"{parts.netloc}{parts.path}".rstrip("/")
    if len(parts.scheme) < 2:  # a path, or a drive letter
        return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(url))
    try:
        files, path = pafs.FileSystem.from_uri(url)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise SettingsError(
            f"Predictions cannot be exported to '{url}': {error}",
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
            remedy="Files written so far stay; try again when it can be reached.",
        ) from error
