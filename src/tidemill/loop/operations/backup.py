"""Backup: the database, MLflow's metadata, the artifacts and the journal, in one file.

    backup(settings, Path("monday.tar.gz"))

The file is the same for SQLite and PostgreSQL, so it can also move a system from one to the other,
or to another home; see `tidemill.loop.operations.restore`. The journal is copied first and the
artifacts last, so that everything that rows refer to is in the backup. See decision 053.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

import tidemill
from tidemill.errors import SettingsError
from tidemill.settings import Settings
from tidemill.stores.database.database import Database
from tidemill.stores.database.dump import write_dump
from tidemill.stores.database.schema import open_database, schema_version
from tidemill.stores.mlflow.connection import open_client, silence_mlflow_output

FORMAT = 1
MANIFEST = "manifest.json"
#: Small files of the home that belong to its state.
HOME_FILES = ("keys.json", "audit.head", "audit.secret")
MLFLOW_VERSION_TABLE = "alembic_version"


class BackupManifest(msgspec.Struct, frozen=True):
    """The contents of a backup.

    Attributes:
        schema, mlflow_schema: The schema versions of both databases.
        rows: The number of rows by database ("database", "mlflow") and table.
        files: The SHA-256 of every other file in the archive, by its path.
    """

    format: int
    tidemill: str
    created: float
    schema: str
    mlflow_schema: str
    artifact_root: str
    rows: dict[str, dict[str, int]]
    files: dict[str, str]

    @property
    def row_count(self) -> int:
        """The number of rows in all tables."""
        return sum(sum(tables.values()) for tables in self.rows.values())


def backup(settings: Settings, file: Path, *, mlflow_store: str | None = None) -> BackupManifest:
    """Write all state into one file, which appears under its name only when it is complete.

    Args:
        mlflow_store: The database behind MLflow's server, if MLflow is a server.

    Raises:
        SettingsError: MLflow is a server and its database is not given.
        UnavailableError: A database cannot be reached.
    """
    store = mlflow_database_uri(settings, mlflow_store)
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with tempfile.TemporaryDirectory(prefix="tidemill-backup-", dir=file.parent) as scratch:
            manifest = _write(settings, store, Path(scratch), draft)
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
    return manifest


def mlflow_database_uri(settings: Settings, given: str | None) -> str:
    """Return the URI of MLflow's database.

    Args:
        given: The database behind MLflow's server; None means the tracking URI is a database.

    Raises:
        SettingsError: The URI is that of a server.
    """
    uri = given or settings.mlflow_uri
    if urlsplit(uri).scheme in ("http", "https"):
        raise SettingsError(
            "MLflow is a server here; a backup needs the database behind it.",
            field="mlflow_store",
            expected="the --backend-store-uri that the server was started with",
        )
    return uri


@contextmanager
def open_both(settings: Settings, store: str) -> Iterator[tuple[Database, Database]]:
    """Open Tidemill's database and MLflow's, creating the tables of a new one.

    Args:
        store: The URI of MLflow's database.
    """
    ours = open_database(settings)
    try:
        silence_mlflow_output()
        open_client(store).search_experiments(max_results=1)  # MLflow creates its tables
        mlflow = Database(store)
        try:
            yield ours, mlflow
        finally:
            mlflow.close()
    finally:
        ours.close()


def mlflow_schema(database: Database) -> str:
    """Return the schema version of MLflow's database."""
    from sqlalchemy import column, select, table

    found = database.rows(select(column("version_num")).select_from(table(MLFLOW_VERSION_TABLE)))
    return str(found[0]["version_num"]) if found else ""


def _write(settings: Settings, store: str, scratch: Path, draft: Path) -> BackupManifest:
    if settings.journal.is_dir():
        shutil.copytree(settings.journal, scratch / "journal", ignore_dangling_symlinks=True)
    # First: a head that is signed meanwhile would be of a row that is not in the dump.
    for name in HOME_FILES:
        if (settings.home / name).is_file():
            shutil.copy2(settings.home / name, scratch / name)
    with open_both(settings, store) as (ours, mlflow):
        rows = {
            "database": write_dump(ours, scratch / "database"),
            "mlflow": write_dump(mlflow, scratch / "mlflow"),
        }
        versions = (schema_version(ours) or "", mlflow_schema(mlflow))
    members = {path.relative_to(scratch).as_posix(): path for path in _files(scratch)}
    root = settings.artifact_root
    for path in _files(root):
        members[f"artifacts/{path.relative_to(root).as_posix()}"] = path
    # It contains the hashes of keys and their pepper: never readable by others, not even at first.
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with (
        os.fdopen(descriptor, "wb") as out,
        tarfile.open(fileobj=out, mode="w:gz", compresslevel=3) as tar,
    ):
        files = _add_files(tar, members)
        manifest = BackupManifest(
            FORMAT, tidemill.__version__, time.time(), *versions, str(root), rows, files
        )
        _add_bytes(tar, MANIFEST, msgspec.json.encode(manifest))
    return manifest


def _add_files(tar: tarfile.TarFile, members: dict[str, Path]) -> dict[str, str]:
    """Add files under their names and return their digests."""
    digests = {}
    for name, path in sorted(members.items()):
        try:
            with path.open("rb") as source:
                info = tar.gettarinfo(arcname=name, fileobj=source)
                hashed = _HashingReader(source)
                tar.addfile(info, hashed)
        except FileNotFoundError:  # a run was deleted meanwhile
            continue
        digests[name] = hashed.digest.hexdigest()
    return digests


class _HashingReader:
    """A file that is hashed while it is read."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._file.read(size)
        self.digest.update(data)
        return data


def _add_bytes(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        info = tarfile.TarInfo(name)
        info.size, info.mtime = len(data), int(time.time())
        tar.addfile(info, file)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
