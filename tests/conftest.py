"""Fixtures for every test: an environment that no setting of the machine leaks into."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The root of the repository, so that `tests.servers` is found however pytest was started.
sys.path.insert(0, str(Path(__file__).parent.parent))
pytest_plugins = ["tests.servers"]

# As `tidemill` sets it for itself: spinning threads make every fit slow on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# One thread for each process, since tests share the processors.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# A shell starts a background job with SIGINT and SIGQUIT ignored, and every process inherits that:
# the tests and what they start are to be interrupted as on a terminal.
for _number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
    if signal.getsignal(_number) is signal.SIG_IGN:
        _interrupt = _number is signal.SIGINT
        signal.signal(_number, signal.default_int_handler if _interrupt else signal.SIG_DFL)

# By hand, examples are drawn anew each time. A gate draws the same for the same tests, so that what
# it finds is about the change.
settings.register_profile(
    "tidemill",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
    derandomize="TIDEMILL_TEST_REPEATABLE" in os.environ,
)
settings.load_profile("tidemill")


def _close_log_files() -> None:
    """Close what a command that ran inside the test process logs to; it keeps its logs open."""
    root = logging.getLogger()
    for handler in [one for one in root.handlers if isinstance(one, logging.FileHandler)]:
        root.removeHandler(handler)
        handler.close()


@pytest.fixture(autouse=True, scope="module")
def _nothing_left_open(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a file of tests leaves open fails its own last test, not one of another file."""
    folder = tmp_path_factory.getbasetemp()
    before = _open_files(folder)
    yield
    _close_log_files()
    gc.collect()  # warns of files, sockets and processes that nobody closed
    left = [name for number, name in _open_files(folder).items() if number not in before]
    assert not left, "left open by this file of tests"


def _open_files(folder: Path) -> dict[str, str]:
    """The open files in a folder by descriptor; MLflow never closes its databases."""
    found = {}
    for link in Path("/proc/self/fd").glob("*"):
        with contextlib.suppress(OSError):
            name = os.readlink(link)
            if name.startswith(f"{folder}/") and "/mlflow.db" not in name:  # nor its -wal
                found[link.name] = name
    return found


@pytest.fixture(autouse=True, scope="module")
def _clean_environment(_nothing_left_open: None) -> Iterator[None]:
    """No TIDEMILL_ or MLflow variable of the machine reaches a test, but for test servers.

    Nor does one that another module's tests left: `mlflow.set_tracking_uri` writes to the
    environment. Being of the module, this comes before the fixtures that a module shares.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            ours = name.startswith("TIDEMILL_") and not name.startswith("TIDEMILL_TEST_")
            if ours or name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MODEL_STAGE"):
                patch.delenv(name)
        yield


@pytest.fixture(autouse=True, scope="module")
def mlflow_tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """MLflow takes seconds to create its tables; each test process creates them once."""
    from tidemill.stores.mlflow import sqlite_store

    make, made = sqlite_store._create_tables, tmp_path_factory.getbasetemp() / "mlflow-tables.db"

    def copy(file: Path) -> None:
        if not made.exists():
            make(made)
        draft = file.with_name(f".{file.name}.draft")
        shutil.copyfile(made, draft)
        draft.replace(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite_store, "_create_tables", copy)
        yield


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh Tidemill home; the working directory is its parent."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / ".tidemill"
