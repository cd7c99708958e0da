"""Restore: puts back the state in a backup file, here or in another home or kind of database.

restore(settings, Path("monday.tar.gz"), actor="ops")
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from tidemill.archives import extract
from tidemill.errors import ConflictError, DataError
from tidemill.loop.operations.backup import (
    FORMAT,
    HOME_FILES,
    MANIFEST,
    MLFLOW_VERSION_TABLE,
    BackupManifest,
    mlflow_database_uri,
    mlflow_schema,
    open_both,
)
from tidemill.settings import Settings
from tidemill.stores.audit import AuditEntry, AuditLog
from tidemill.stores.audit_heads import FILE as HEADS
from tidemill.stores.database.database import Database
from tidemill.stores.database.dump import count_rows, read_dump
from tidemill.stores.database.schema import VERSION_TABLE, schema_version

#: Columns of MLflow's tables with the absolute URI of an artifact.
ARTIFACT_COLUMNS = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "model_versions": ("source", "storage_location"),
    "logged_models": ("artifact_location",),
}


def restore(
    settings: Settings,
    file: Path,
    *,
    actor: str,
    force: bool = False,
    mlflow_store: str | None = None,
    reason: str | None = None,
) -> BackupManifest:
    """Restore a backup; the whole file is verified before anything is changed.

    Servers and workers of this home should be stopped. In another home the URIs of artifacts are
    rewritten.

    Args:
        force: Replace existing state; without it the databases must be empty.
        mlflow_store: The database behind MLflow's server, if MLflow is a server.

    Raises:
        DataError: The file is damaged, or has other schema versions.
        ConflictError: There is existing state and `force` is not set.
    """
    store = mlflow_database_uri(settings, mlflow_store)
    settings.make_home()
    with tempfile.TemporaryDirectory(prefix=".restore-", dir=settings.home) as scratch:
        folder = Path(scratch)
        manifest = _unpack(file, folder)
        with open_both(settings, store) as (ours, mlflow):
            if not force:
                _require_empty(ours, mlflow)
            _check_versions(manifest, ours, mlflow)
            new_root = str(settings.artifact_root)
            _rewrite_artifact_uris(folder / "mlflow", manifest.artifact_root, new_root)
            read_dump(mlflow, folder / "mlflow", keep=frozenset((MLFLOW_VERSION_TABLE,)))
            read_dump(ours, folder / "database", keep=frozenset((VERSION_TABLE,)))
            _restore_files(folder, settings)
            details = {"file": file.name, "created": manifest.created, "rows": manifest.rows}
            AuditLog.from_settings(ours, settings).append(
                AuditEntry(actor, "restore", reason=reason, details=details), restored=True
            )
    return manifest


def _unpack(file: Path, folder: Path) -> BackupManifest:
    """Unpack the backup and verify every file in it against its manifest."""
    try:
        extract(file, folder, "r:gz")
        _make_private(folder)
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=BackupManifest)
    except (OSError, EOFError, tarfile.TarError, msgspec.DecodeError) as error:
        raise DataError(f"{file} is not a complete backup: {error}", field="file") from error
    if manifest.format != FORMAT:
        raise DataError(
            f"{file} has backup format {manifest.format}; this version of Tidemill reads {FORMAT}."
        )
    for name, digest in manifest.files.items():
        path = folder / name
        if not path.is_file() or _digest(path) != digest:
            raise DataError(f"{file} is damaged: {name} was changed or is missing.", field="file")
    return manifest


def _make_private(folder: Path) -> None:
    """Keys, a secret, and what users sent: for this user alone, whatever the umask was."""
    for path in folder.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)


def _check_versions(manifest: BackupManifest, ours: Database, mlflow: Database) -> None:
    pairs = (
        ("Tidemill's", manifest.schema, schema_version(ours)),
        ("MLflow's", manifest.mlflow_schema, mlflow_schema(mlflow)),
    )
    for whose, saved, here in pairs:
        if saved != here:
            raise DataError(
                f"The backup has {whose} schema {saved}; the schema here is {here}.",
                remedy="Restore it with the version that wrote it, then upgrade.",
            )


def _require_empty(ours: Database, mlflow: Database) -> None:
    if count_rows(ours, "jobs", "audit", "predictions") + count_rows(mlflow, "runs"):
        raise ConflictError(
            "There is existing state here.",
            remedy="Restore into an empty home, or replace the state with --force.",
        )


def _rewrite_artifact_uris(folder: Path, old: str, new: str) -> None:
    """Replace the old artifact root by the new one in the dump of MLflow's tables."""
    if old == new:
        return
    for table, columns in ARTIFACT_COLUMNS.items():
        path = folder / f"{table}.jsonl"
        if not path.is_file():
            continue
        with path.open(encoding="utf-8") as file:
            names, *rows = [json.loads(line) for line in file]
        positions = [index for index, name in enumerate(names) if name in columns]
        for row in rows:
            for index in positions:
                row[index] = _rewritten(row[index], old, new)
        path.write_text("".join(json.dumps(row) + "\n" for row in (names, *rows)), "utf-8")


def _rewritten(value: Any, old: str, new: str) -> Any:
    if not isinstance(value, str):
        return value
    for prefix, replacement in ((old, new), (Path(old).as_uri(), Path(new).as_uri())):
        if value == prefix or value.startswith(f"{prefix}/"):
            return replacement + value[len(prefix) :]
    return value


def _restore_files(folder: Path, settings: Settings) -> None:
    replaced = settings.home / HEADS
    if replaced.exists():  # the signed heads of the history that is replaced are kept
        replaced.rename(replaced.with_name(f"{HEADS}.replaced-{time.time_ns()}"))
    for name in HOME_FILES:
        if (folder / name).is_file():
            shutil.move(folder / name, settings.home / name)
    targets = {"artifacts": settings.artifact_root, "journal": settings.journal}
    for name, target in targets.items():
        if (folder / name).is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.move(folder / name, target)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
