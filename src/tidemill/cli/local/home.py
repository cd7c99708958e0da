"""The home folder: its lock, and the API key of this machine's user."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

from tidemill import keyring
from tidemill.cli.local.process_specs import ServerAddresses
from tidemill.errors import ConflictError
from tidemill.settings import Settings

KEY_FILE = "key"
FIRST_KEY = "first key"


@contextlib.contextmanager
def lock_home(home: Path, at: ServerAddresses) -> Iterator[None]:
    """Lock a home for this process while the block runs; the lock ends with the process.

    Raises:
        ConflictError: Another process has locked it; says which, and its API's address.
    """
    home.mkdir(0o700, parents=True, exist_ok=True)
    with (home / "up.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise _locked(home, file.read()) from None
        file.truncate(0)
        json.dump({"pid": os.getpid(), "api": at.api, "mlflow": at.mlflow}, file)
        file.flush()
        yield
        file.truncate(0)


def _locked(home: Path, text: str) -> ConflictError:
    try:
        holder = json.loads(text)
        who = f"process {holder['pid']}, whose API is at {holder['api']}"
    except (ValueError, KeyError, TypeError):
        who = "another process"
    return ConflictError(
        f"{home} is in use by {who}.",
        remedy="Use that one, stop it, or choose another home with --home.",
    )


def read_own_key(settings: Settings) -> str | None:
    """The API key that `ensure_key` wrote for this machine's user, if there is one."""
    try:
        return (settings.home / KEY_FILE).read_text().strip() or None
    except OSError:
        return None


def ensure_key(settings: Settings, *, recorded: bool = True) -> tuple[Path, bool]:
    """Create an API key for this machine's user, unless there are keys already.

    The server stores only the key's hash; the file (mode 0600) is the user's own copy, so that
    pasted commands work.

    Args:
        recorded: Whether to record the key in the audit log, which needs the database. False for a
            data plane without a control plane.

    Returns:
        The file, and whether the key was created now.

    Raises:
        SettingsError: The database has another schema version.
        UnavailableError: The database cannot be reached; no key was created.
    """
    path = settings.home / KEY_FILE
    if settings.keys_file.exists():
        return path, False
    token = (_recorded_key if recorded else _unrecorded_key)(settings)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(token)
    return path, True


def _recorded_key(settings: Settings) -> str:
    from tidemill.platform import Platform  # takes a second, which only the first start spends

    with contextlib.closing(Platform.open(settings)) as platform:
        return platform.keys.create(("admin",), actor="cli", name=FIRST_KEY)[0]


def _unrecorded_key(settings: Settings) -> str:
    ring, token, _ = keyring.add(keyring.new_keyring(), ("admin",), name=FIRST_KEY)
    keyring.save(settings.keys_file, ring)
    return token
