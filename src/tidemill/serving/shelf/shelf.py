"""The shelf: the server's local bundles, with which it can serve while everything else is down.

    <shelf>/state.json                                what should be served (`ShelfState`)
    <shelf>/traffic.json                              the challengers' traffic (`traffic_rules`)
    <shelf>/<model>/<version>-<first 12 of digest>/   one bundle, never modified

The control plane (`tidemill.loop.sync.shelf_sync`) installs bundles, writes the state and collects
garbage; the data plane only reads. A bundle is copied under a hidden name, checked against its
digest and then renamed, so a folder with its final name is always complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import quote

import msgspec

from tidemill import bundle
from tidemill.bundle import Bundle
from tidemill.errors import BundleError
from tidemill.state_files import decode_state

T = TypeVar("T")

FORMAT = 1
STATE = "state.json"
INCOMING = ".incoming-"
TRASH = ".trash-"
STALE_SECONDS = 600.0
NAME_BYTES = 200
NEVER_READ = (-1, -1, -1)


class ShelfEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A version that should be served, and its bundle.

    Attributes:
        folder: Relative to the shelf.
        digest: Of the bundle.
        alias: The MLflow alias that it was found by; None if it was selected by number.
    """

    version: str
    folder: str
    digest: str
    alias: str | None = None


class ShelfState(msgspec.Struct, frozen=True):
    """What should be served.

    Attributes:
        default: The model that answers requests without a model name.
        models: The version to serve, by model name.
        challengers: The version that shadows or shares the traffic, by model name.
        problems: Why a model's intended version is not here, by model name, as a message for
            people. The version in `models`, if there is one, stays in service.
        synced_at: When the registry was last reached, in seconds since the epoch.
        registry: Identifies the registry that the models came from; None if that is unknown.
    """

    format: int = FORMAT
    default: str | None = None
    models: dict[str, ShelfEntry] = {}
    challengers: dict[str, ShelfEntry] = {}
    problems: dict[str, str] = {}
    synced_at: float = 0.0
    registry: str | None = None


def folder_name(model: str, version: str, digest: str) -> str:
    """A bundle's folder, relative to the shelf: `<quoted model>/<version>-<digest[:12]>`.

    A name that would be hidden or lead out of the shelf is escaped; one that is too long for the
    file system is shortened, with a hash of the full name.
    """
    quoted = quote(model, safe="")
    if quoted.startswith("."):
        quoted = "%2E" + quoted[1:]
    if len(quoted) > NAME_BYTES:
        quoted = f"{quoted[:NAME_BYTES]}~{hashlib.sha256(model.encode()).hexdigest()[:12]}"
    return f"{quoted}/{quote(version, safe='')}-{digest[:12]}"


def install_bundle(shelf: Path, model: str, version: str, source: Path, digest: str) -> ShelfEntry:
    """Copy the bundle in `source` to the shelf, completely or not at all.

    An intact bundle that is already there is kept; a damaged one is replaced.

    Raises:
        BundleError: The copy does not have this digest, or cannot be written. The shelf is
            unchanged.
    """
    name = folder_name(model, version, digest)
    target = shelf / name
    if _is_intact(target, digest):
        return ShelfEntry(version=version, folder=name, digest=digest)
    incoming = shelf / f"{INCOMING}{secrets.token_hex(6)}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(source, incoming)
        bundle.read(incoming, digest=digest)
        _remove(shelf, target)
        incoming.rename(target)
        _sync(target.parent)
    except OSError as error:
        raise BundleError(
            f"Version {version} of '{model}' cannot be copied to the shelf {shelf}: {error}",
            remedy="Check the disk space and the permissions of the shelf.",
        ) from error
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return ShelfEntry(version=version, folder=name, digest=digest)


def open_bundle(shelf: Path, entry: ShelfEntry) -> Bundle:
    """Open the bundle of an entry, checked against its digest.

    Raises:
        BundleError: The bundle is missing, corrupt, has another digest, or is outside the shelf.
    """
    folder = shelf / entry.folder
    if not folder.resolve().is_relative_to(shelf.resolve()) or folder.resolve() == shelf.resolve():
        raise BundleError(f"{entry.folder} lies outside the shelf {shelf}.")
    try:
        return bundle.read(folder, digest=entry.digest)
    except OSError as error:
        raise BundleError(f"{folder} cannot be read: {error}") from error


def write_state(shelf: Path, state: ShelfState) -> None:
    """Replace the state atomically."""
    replace_file(shelf / STATE, msgspec.json.format(msgspec.json.encode(state), indent=2))


def replace_file(path: Path, data: bytes) -> None:
    """Replace the contents of a file atomically and flush them to disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_state(shelf: Path) -> ShelfState:
    """The state; empty if none has been written.

    Raises:
        BundleError: The file cannot be read, or has another format.
    """
    try:
        data = (shelf / STATE).read_bytes()
        state = decode_state(data, ShelfState, ("format", "models", "synced_at"))
    except FileNotFoundError:
        return ShelfState()
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{shelf / STATE} cannot be read: {error}",
            remedy="Run the sync process; it writes the file again.",
        ) from error
    if state.format != FORMAT:
        raise BundleError(
            f"{shelf / STATE} has format {state.format}, but this version of Tidemill reads format"
            f" {FORMAT}."
        )
    return state


class FileWatch(Generic[T]):
    """Reads a file again only if it was replaced, at the cost of one `stat` per poll.

    A file that disappears is an error: its last value holds until there is another. See decision
    203.

    Args:
        read: Reads the file; returns a value if there has never been a file.
    """

    def __init__(self, path: Path, read: Callable[[], T]) -> None:
        self._path = path
        self._read = read
        self._stamp: tuple[int, int, int] | None = NEVER_READ

    def poll(self) -> T | None:
        """The file's value if it has changed since the last poll, else None.

        The first call always returns a value.

        Raises:
            BundleError: The file has changed but cannot be read, or is gone; the next poll tries
                again.
        """
        stamp = self._current_stamp()
        if stamp is None and self._stamp not in (None, NEVER_READ):
            raise BundleError(f"{self._path} is missing; what it said last still holds.")
        if stamp == self._stamp:
            return None
        found = self._read()
        self._stamp = stamp
        return found

    def _current_stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size


class StateWatch(FileWatch[ShelfState]):
    """Reads the shelf's state again only if its file was replaced."""

    def __init__(self, shelf: Path) -> None:
        super().__init__(shelf / STATE, lambda: read_state(shelf))


def shelf_bytes(shelf: Path) -> int:
    """Size of the shelf on disk, in bytes."""
    return sum(_folder_bytes(folder) for folder in shelf.iterdir()) if shelf.is_dir() else 0


def collect_garbage(
    shelf: Path, state: ShelfState, *, keep: int = 3, max_bytes: int = 10 << 30
) -> list[str]:
    """Delete bundles that are not in the state, and incomplete files of dead processes.

    The newest `keep` versions of each model stay, so that a rollback needs no download. If the
    shelf exceeds `max_bytes`, the oldest of those are deleted too. Bundles in the state stay.

    Returns:
        The deleted folders, relative to the shelf.
    """
    _remove_stale(shelf)
    used = {p.folder for p in (*state.models.values(), *state.challengers.values())}
    kept: list[Path] = []
    unused: list[Path] = []
    for model in _models(shelf):
        versions = [p for p in _newest_first(model) if _relative(shelf, p) not in used]
        spare = max(0, keep - (len(list(model.iterdir())) - len(versions)))
        kept += versions[:spare]
        unused += versions[spare:]
    unused += _over_budget(shelf, kept, unused, max_bytes)
    for folder in unused:
        _remove(shelf, folder)
    for model in _models(shelf):
        with contextlib.suppress(OSError):
            model.rmdir()
    return [_relative(shelf, folder) for folder in unused]


def _is_intact(folder: Path, digest: str) -> bool:
    try:
        bundle.read(folder, digest=digest)
    except (BundleError, OSError):
        return False
    return True


def _copy(source: Path, target: Path) -> None:
    """Copy the regular files of a bundle and flush them to disk."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        if path.is_symlink() or not path.is_file():
            raise BundleError(f"{path} is not a regular file.")
        copy = Path(shutil.copyfile(path, target / path.name))
        _sync(copy)
    _sync(target)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(shelf: Path, folder: Path) -> None:
    """Delete a folder so that no reader sees it half deleted."""
    if not folder.exists():
        return
    trash = shelf / f"{TRASH}{secrets.token_hex(6)}"
    folder.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)


def _remove_stale(shelf: Path) -> None:
    """Delete what killed processes left under hidden names, once it is too old to be in use."""
    for path in shelf.glob(".*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime < STALE_SECONDS:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def _models(shelf: Path) -> list[Path]:
    return sorted(p for p in shelf.iterdir() if p.is_dir() and not p.name.startswith("."))


def _newest_first(model: Path) -> list[Path]:
    """A model's bundles by version number; by time for versions that are not numbers."""

    def rank(path: Path) -> tuple[int, float]:
        number = re.match(r"\d+(?=-)", path.name)
        return (int(number.group()) if number else -1, path.stat().st_mtime)

    return sorted((p for p in model.iterdir() if p.is_dir()), key=rank, reverse=True)


def _over_budget(shelf: Path, kept: list[Path], unused: list[Path], max_bytes: int) -> list[Path]:
    """The oldest of the kept bundles, as many as exceed `max_bytes`."""
    total = shelf_bytes(shelf) - sum(map(_folder_bytes, unused))
    extra = []
    for folder in sorted(kept, key=lambda p: p.stat().st_mtime):
        if total <= max_bytes:
            break
        total -= _folder_bytes(folder)
        extra.append(folder)
    return extra


def _folder_bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else iter([path])
    return sum(f.stat().st_size for f in files if f.is_file())


def _relative(shelf: Path, folder: Path) -> str:
    return folder.relative_to(shelf).as_posix()
