"""MLflow's tables in a new SQLite file: made once, and there as a whole or not at all.

MLflow makes and migrates them itself, in some seconds. Two processes that do so at once, or one
that is killed meanwhile, leave a file that no MLflow opens any more. So they are made in a draft
beside the file, by one process at a time, and get their name when they are whole.
"""

from __future__ import annotations

from pathlib import Path

from tidemill.stores.file_lock import file_lock
from tidemill.stores.mlflow.query_statistics import sqlite_file


def create_mlflow_tables(uri: str) -> None:
    """Make the tables, if the URI is that of an SQLite file that is not there.

    Raises:
        OSError: The folder cannot be written to.
        sqlalchemy.exc.SQLAlchemyError: The tables cannot be made.
    """
    named = sqlite_file(uri)
    if named is None or Path(named).exists():
        return
    file = Path(named)
    with file_lock(file.with_name(f".{file.name}.lock")):
        if not file.exists():
            _make(file)


def _make(file: Path) -> None:
    from mlflow.store.db.utils import _initialize_tables
    from sqlalchemy import create_engine

    draft = file.with_name(f".{file.name}.draft")
    draft.unlink(missing_ok=True)  # of a process that was killed
    engine = create_engine(f"sqlite:///{draft}")
    try:
        _initialize_tables(engine)
    finally:
        engine.dispose()
    draft.replace(file)
