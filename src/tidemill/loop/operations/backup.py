"""Backup and restore: the database, MLflow's metadata and the artifacts, in one file.

    backup(settings, Path("monday.tar.gz"))
    restore(settings, Path("monday.tar.gz"), actor="ops")

The file is the same for SQLite and PostgreSQL, so it also moves a system from one to the other, or
to another home. Journals are taken first and artifacts last, so that whatever rows speak of is
there.
"""

from __future__ import annotations

import hashlib
import json
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
from tidemill.archives import extract
from tidemill.errors import ConflictError, DataError, SettingsError
from tidemill.settings import Settings
from tidemill.stores.audit import AuditEntry, AuditLog
from tidemill.stores.database.database import Database
from tidemill.stores.database.dump import count_rows, read_dump, write_dump
from tidemill.stores.database.schema import VERSION_TABLE, check_schema, migrate, schema_version
from tidemill.stores.mlflow.connection import open_client, silence_mlflow_output

FORMAT = 1
MANIFEST = "manifest.json"
#: Small files of the home that belong to its state.
HOME_FILES = ("keys.json", "audit.head", "audit.secret")
MLFLOW_VERSION_TABLE = "alembic_version"
#: Where MLflow's tables keep the place of an artifact as an absolute address.
PLACES = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "model_versions": ("source", "storage_location"),
    "logged_models": ("artifact_location",),
}


class BackupManifest(msgspec.Struct, frozen=True):
    """What is in a backup. `rows` by table; `files` are the sha256 of every other member."""

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
        """The rows of all tables."""
        return sum(sum(tables.values()) for tables in self.rows.values())


def backup(settings: Settings, file: Path, *, mlflow_store: str | None = None) -> BackupManifest:
    """Write all state into one file; it appears under its name only when it is whole.

    Args:
        mlflow_store: The database behind MLflow's server, where one is used.

    Raises:
        SettingsError: MLflow is a server and its database is not named.
        UnavailableError: A database cannot be reached.
    """
    store = _store(settings, mlflow_store)
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with tempfile.TemporaryDirectory(prefix="tidemill-backup-", dir=file.parent) as scratch:
            contents = _gather(settings, store, Path(scratch), draft)
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
    return contents


def restore(
    settings: Settings,
    file: Path,
    *,
    actor: str,
    force: bool = False,
    mlflow_store: str | None = None,
    reason: str | None = None,
) -> BackupManifest:
    """Put back what a backup holds; the file is checked as a whole before anything is changed.

    Servers and workers of this home should be stopped. Addresses of artifacts are rewritten when
    the home is another one.

    Args:
        force: Replace what is there; otherwise the databases must be empty.

    Raises:
        DataError: The file is damaged, or was written for other tables.
        ConflictError: There is something here, and `force` was not given.
    """
    store = _store(settings, mlflow_store)
    settings.home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".restore-", dir=settings.home) as scratch:
        folder = Path(scratch)
        contents = _unpack(file, folder)
        with _database(settings) as ours, _mlflow(store) as theirs:
            if not force:
                _require_empty(ours, theirs)
            _check_versions(contents, ours, theirs)
            _move_places(folder / "mlflow", contents.artifact_root, _root(settings))
            read_dump(theirs, folder / "mlflow", keep=frozenset((MLFLOW_VERSION_TABLE,)))
            read_dump(ours, folder / "database", keep=frozenset((VERSION_TABLE,)))
            _place_files(folder, settings)
            audit = AuditLog.from_settings(ours, settings)
            made = {"file": file.name, "created": contents.created, "rows": contents.rows}
            audit.append(AuditEntry(actor, "restore", reason=reason, details=made))
    return contents


def _gather(settings: Settings, store: str, scratch: Path, draft: Path) -> BackupManifest:
    _copy_tree(settings.journal, scratch / "journal")
    with _database(settings) as ours, _mlflow(store) as theirs:
        rows = {
            "database": write_dump(ours, scratch / "database"),
            "mlflow": write_dump(theirs, scratch / "mlflow"),
        }
        versions = (schema_version(ours) or "", _mlflow_schema(theirs))
    for name in HOME_FILES:
        if (settings.home / name).is_file():
            shutil.copy2(settings.home / name, scratch / name)
    members = {path.relative_to(scratch).as_posix(): path for path in _files(scratch)}
    for path in _files(settings.artifact_root):
        members[f"artifacts/{path.relative_to(settings.artifact_root).as_posix()}"] = path
    return _pack(draft, members, rows, versions, _root(settings))


def _pack(
    draft: Path,
    members: dict[str, Path],
    rows: dict[str, dict[str, int]],
    versions: tuple[str, str],
    root: str,
) -> BackupManifest:
    files = {}
    with tarfile.open(draft, "w:gz", compresslevel=3) as tar:
        os.chmod(draft, 0o600)  # it holds the hashes of keys and their pepper
        for name, path in sorted(members.items()):
            try:
                with path.open("rb") as source:
                    info = tar.gettarinfo(arcname=name, fileobj=source)
                    hashed = _Hashing(source)
                    tar.addfile(info, hashed)
            except FileNotFoundError:  # a run was deleted meanwhile
                continue
            files[name] = hashed.digest.hexdigest()
        contents = BackupManifest(
            FORMAT, tidemill.__version__, time.time(), *versions, root, rows, files
        )
        _add_bytes(tar, MANIFEST, msgspec.json.encode(contents))
    return contents


class _Hashing:
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


def _unpack(file: Path, folder: Path) -> BackupManifest:
    """Unpack the backup and check every file in it against its manifest."""
    try:
        with tarfile.open(file, "r:gz") as tar:
            extract(tar, folder)
        contents = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=BackupManifest)
    except (OSError, EOFError, tarfile.TarError, msgspec.DecodeError) as error:
        raise DataError(f"{file} is not a whole backup: {error}", field="file") from error
    if contents.format != FORMAT:
        raise DataError(
            f"{file} has backup format {contents.format}; this Tidemill reads {FORMAT}."
        )
    for name, digest in contents.files.items():
        path = folder / name
        if not path.is_file() or _digest(path) != digest:
            raise DataError(f"{file} is damaged: {name} is not what it was.", field="file")
    return contents


def _check_versions(contents: BackupManifest, ours: Database, theirs: Database) -> None:
    pairs = (
        ("Tidemill's", contents.schema, schema_version(ours)),
        ("MLflow's", contents.mlflow_schema, _mlflow_schema(theirs)),
    )
    for whose, held, here in pairs:
        if held != here:
            raise DataError(
                f"The backup was taken at {whose} schema {held}; here it is {here}.",
                remedy="Restore it with the version that wrote it, then upgrade.",
            )


def _require_empty(ours: Database, theirs: Database) -> None:
    held = count_rows(ours, "jobs", "audit", "predictions") + count_rows(theirs, "runs")
    if held:
        raise ConflictError(
            "There is something here already.",
            remedy="Restore into an empty home, or replace what is here with --force.",
        )


def _move_places(folder: Path, old: str, new: str) -> None:
    """Let addresses of artifacts start with the new root where they started with the old."""
    if old == new:
        return
    for table, columns in PLACES.items():
        path = folder / f"{table}.jsonl"
        if not path.is_file():
            continue
        with path.open(encoding="utf-8") as file:
            names, *rows = [json.loads(line) for line in file]
        moved = [names, *(_moved(row, names, columns, old, new) for row in rows)]
        path.write_text("".join(json.dumps(row) + "\n" for row in moved), "utf-8")


def _moved(
    row: list[Any], names: list[str], columns: tuple[str, ...], old: str, new: str
) -> list[Any]:
    return [
        _readdressed(value, old, new) if name in columns else value
        for name, value in zip(names, row, strict=True)
    ]


def _readdressed(value: Any, old: str, new: str) -> Any:
    if not isinstance(value, str):
        return value
    for prefix, put in ((old, new), (Path(old).as_uri(), Path(new).as_uri())):
        if value == prefix or value.startswith(f"{prefix}/"):
            return put + value[len(prefix) :]
    return value


def _place_files(folder: Path, settings: Settings) -> None:
    for name in HOME_FILES:
        if (folder / name).is_file():
            shutil.move(folder / name, settings.home / name)
    targets = {"artifacts": settings.artifact_root, "journal": settings.journal}
    for name, target in targets.items():
        if (folder / name).is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.move(folder / name, target)


def _store(settings: Settings, named: str | None) -> str:
    uri = named or settings.mlflow_uri
    if urlsplit(uri).scheme in ("http", "https"):
        raise SettingsError(
            "MLflow is a server here; a backup needs the database behind it.",
            field="mlflow_store",
            expected="the --backend-store-uri that the server was started with",
        )
    return uri


@contextmanager
def _database(settings: Settings) -> Iterator[Database]:
    database = Database(settings.database_uri)
    try:
        if settings.database_url is None:
            migrate(database)
        check_schema(database)
        yield database
    finally:
        database.close()


@contextmanager
def _mlflow(store: str) -> Iterator[Database]:
    """MLflow's database with MLflow's tables, which MLflow itself makes where there are none."""
    silence_mlflow_output()
    open_client(store).search_experiments(max_results=1)
    database = Database(store)
    try:
        yield database
    finally:
        database.close()


def _mlflow_schema(database: Database) -> str:
    from sqlalchemy import column, select, table

    found = database.rows(select(column("version_num")).select_from(table(MLFLOW_VERSION_TABLE)))
    return str(found[0]["version_num"]) if found else ""


def _root(settings: Settings) -> str:
    return str(settings.artifact_root)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]


def _copy_tree(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore_dangling_symlinks=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
