"""The shelf: the serving machine's own bundles, which let it serve while everything else is down.

    <shelf>/state.json                                what should be served (`ShelfState`)
    <shelf>/traffic.json                              what challengers see (`serving.traffic`)
    <shelf>/<model>/<version>-<first 12 of digest>/   one bundle, never changed once it is there

The control plane (`tidemill.loop.sync.shelf_sync`) places bundles, writes the state and collects
garbage; the
data plane only reads. A bundle is copied under a hidden name, checked against its digest, and only
then renamed, so a folder with its final name is whole.
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

T = TypeVar("T")

FORMAT = 1
STATE = "state.json"
INCOMING = ".incoming-"
TRASH = ".trash-"
STALE_SECONDS = 600.0
NAME_BYTES = 200


class ShelfEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A version that should be served, and the bundle that it is.

    `folder` is relative to the shelf. `alias` is the MLflow alias it was found by, None when it was
    asked for by number.
    """

    version: str
    folder: str
    digest: str
    alias: str | None = None


class ShelfState(msgspec.Struct, frozen=True):
    """What should be served.

    Attributes:
        default: The model that answers where a request names none.
        models: The version that answers, by model name.
        challengers: The version that shadows or shares the traffic, by model name.
        problems: Why a model's wanted version is not here, by model name, in words for a person.
            The version in `models`, if there is one, goes on.
        synced_at: When the registry was last reached, in seconds since the epoch.
    """

    format: int = FORMAT
    default: str | None = None
    models: dict[str, ShelfEntry] = {}
    challengers: dict[str, ShelfEntry] = {}
    problems: dict[str, str] = {}
    synced_at: float = 0.0


def folder_name(model: str, version: str, digest: str) -> str:
    """Where a bundle lives, relative to the shelf: `<quoted model>/<version>-<digest[:12]>`.

    A name that would be hidden, climb out of the shelf, or be too long for the file system is
    escaped or cut, with a hash in place of the rest.
    """
    quoted = quote(model, safe="")
    if quoted.startswith("."):
        quoted = "%2E" + quoted[1:]
    if len(quoted) > NAME_BYTES:
        quoted = f"{quoted[:NAME_BYTES]}~{hashlib.sha256(model.encode()).hexdigest()[:12]}"
    return f"{quoted}/{quote(version, safe='')}-{digest[:12]}"


def install_bundle(shelf: Path, model: str, version: str, source: Path, digest: str) -> ShelfEntry:
    """Copy the bundle in `source` to its place, all of it or nothing.

    A whole bundle that is already there is left alone; a damaged one is replaced.

    Raises:
        BundleError: The copy is not the bundle of that digest, or the disk would not take it. The
            shelf is as it was.
    """
    name = folder_name(model, version, digest)
    target = shelf / name
    if _is_whole(target, digest):
        return ShelfEntry(version=version, folder=name, digest=digest)
    incoming = shelf / f"{INCOMING}{secrets.token_hex(6)}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(source, incoming)
        bundle.read(incoming, digest=digest)
        _throw_away(shelf, target)
        incoming.rename(target)
        _sync(target.parent)
    except OSError as error:
        raise BundleError(f"Version {version} of '{model}' cannot be placed: {error}") from error
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return ShelfEntry(version=version, folder=name, digest=digest)


def open_bundle(shelf: Path, placed: ShelfEntry) -> Bundle:
    """The bundle of an entry of the state, checked against its digest.

    Raises:
        BundleError: It is not there, not whole, not that digest, or outside the shelf.
    """
    folder = shelf / placed.folder
    if not folder.resolve().is_relative_to(shelf.resolve()) or folder.resolve() == shelf.resolve():
        raise BundleError(f"{placed.folder} lies outside the shelf {shelf}.")
    try:
        return bundle.read(folder, digest=placed.digest)
    except OSError as error:
        raise BundleError(f"{folder} cannot be read: {error}") from error


def write_state(shelf: Path, state: ShelfState) -> None:
    """Replace the state so that a reader sees the old or the new one, never a half."""
    replace_file(shelf / STATE, msgspec.json.format(msgspec.json.encode(state), indent=2))


def replace_file(path: Path, data: bytes) -> None:
    """Give a file new contents in one step, flushed to disk."""
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
    """The state; an empty one when nothing was ever written.

    Raises:
        BundleError: The file cannot be read or has another format.
    """
    try:
        state = msgspec.json.decode((shelf / STATE).read_bytes(), type=ShelfState)
    except FileNotFoundError:
        return ShelfState()
    except (OSError, msgspec.MsgspecError) as error:
        raise BundleError(f"{shelf / STATE} cannot be read: {error}") from error
    if state.format != FORMAT:
        raise BundleError(
            f"{shelf / STATE} has format {state.format}; this Tidemill reads {FORMAT}."
        )
    return state


class FileWatch(Generic[T]):
    """Reads a file again only when it was replaced: one `stat` a poll.

    poll() gives what was read, or None when nothing changed since the last call.

    Args:
        read: Reads the file; gives something also when there is none.
    """

    def __init__(self, path: Path, read: Callable[[], T]) -> None:
        self._path = path
        self._read = read
        self._seen: tuple[int, int, int] | None = (-1, -1, -1)

    def poll(self) -> T | None:
        """What is in the file if it changed, else None. The first call always gives something.

        Raises:
            BundleError: It changed and cannot be read; the next poll looks again.
        """
        stamp = self._stamp()
        if stamp == self._seen:
            return None
        found = self._read()
        self._seen = stamp
        return found

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size


class StateWatch(FileWatch[ShelfState]):
    """Reads the state again only when its file was replaced."""

    def __init__(self, shelf: Path) -> None:
        super().__init__(shelf / STATE, lambda: read_state(shelf))


def shelf_bytes(shelf: Path) -> int:
    """How much disk the shelf takes, in bytes."""
    return sum(_folder_bytes(folder) for folder in shelf.iterdir()) if shelf.is_dir() else 0


def collect_garbage(
    shelf: Path, state: ShelfState, *, keep: int = 3, max_bytes: int = 10 << 30
) -> list[str]:
    """Delete bundles that are not in the state, and what dead processes left half done.

    Each model keeps its newest `keep` versions, so that a rollback needs no download; beyond
    `max_bytes` for the whole shelf the oldest of those go too. What the state names always stays.

    Returns:
        The folders that were deleted, relative to the shelf.
    """
    _remove_stale(shelf)
    named = {p.folder for p in (*state.models.values(), *state.challengers.values())}
    kept: list[Path] = []
    gone: list[Path] = []
    for model in _models(shelf):
        versions = [p for p in _newest_first(model) if _relative(shelf, p) not in named]
        spare = max(0, keep - (len(list(model.iterdir())) - len(versions)))
        kept += versions[:spare]
        gone += versions[spare:]
    gone += _over_budget(shelf, kept, gone, max_bytes)
    for folder in gone:
        _throw_away(shelf, folder)
    for model in _models(shelf):
        with contextlib.suppress(OSError):
            model.rmdir()
    return [_relative(shelf, folder) for folder in gone]


def _is_whole(folder: Path, digest: str) -> bool:
    try:
        bundle.read(folder, digest=digest)
    except (BundleError, OSError):
        return False
    return True


def _copy(source: Path, target: Path) -> None:
    """Copy the ordinary files of a bundle, flushed to disk before the folder gets its name."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        if path.is_symlink() or not path.is_file():
            raise BundleError(f"{path} is not an ordinary file.")
        copy = Path(shutil.copyfile(path, target / path.name))
        _sync(copy)
    _sync(target)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _throw_away(shelf: Path, folder: Path) -> None:
    """Delete a folder so that nobody meets it half deleted."""
    if not folder.exists():
        return
    trash = shelf / f"{TRASH}{secrets.token_hex(6)}"
    folder.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)


def _remove_stale(shelf: Path) -> None:
    """What a killed process left under a hidden name, once it is surely not being written."""
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
    """A model's bundles by version number, then by time for versions that are not numbers."""

    def rank(path: Path) -> tuple[int, float]:
        number = re.match(r"\d+(?=-)", path.name)
        return (int(number.group()) if number else -1, path.stat().st_mtime)

    return sorted((p for p in model.iterdir() if p.is_dir()), key=rank, reverse=True)


def _over_budget(shelf: Path, kept: list[Path], gone: list[Path], max_bytes: int) -> list[Path]:
    """Of the bundles that could stay, the oldest ones that do not fit into `max_bytes`."""
    total = shelf_bytes(shelf) - sum(map(_folder_bytes, gone))
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
