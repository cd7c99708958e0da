"""Unpacks untrusted tar archives.

Replaces `TarFile.extractall(filter="data")`, which the first releases of Python 3.11 (including
that of Debian 12) lack, and which follows links that never end.
"""

from __future__ import annotations

import posixpath
import shutil
import tarfile
from pathlib import Path
from typing import Literal

MAX_MEMBERS = 100_000
MAX_LINKS = 40  # from one to the next


def extract(
    file: Path, folder: Path, mode: Literal["r:", "r:gz"] = "r:", *, max_bytes: int | None = None
) -> None:
    """Extract an archive into a folder, and write nothing outside of it.

    Absolute names are relative to the folder. A link becomes a copy of its target in the archive.

    Args:
        mode: Whether the archive is compressed.
        max_bytes: The most bytes to write; None for as many as the disk holds.

    Raises:
        tarfile.ExtractError: The archive is damaged or too large, a name leads out of the folder, a
            link leads out of the archive or to itself, or a member is a device or a pipe. Other
            members may have been extracted.
    """
    try:
        with tarfile.open(file, mode) as archive:
            _Extraction(archive, folder.resolve(), max_bytes).run()
    except (tarfile.ExtractError, OSError):
        raise
    except Exception as error:  # in a damaged archive, tarfile may fail in any way
        raise tarfile.ExtractError(f"{type(error).__name__}: {error}") from error


class _Extraction:
    """One archive on its way into one folder."""

    def __init__(self, archive: tarfile.TarFile, root: Path, max_bytes: int | None) -> None:
        self._archive = archive
        self._root = root
        self._room = max_bytes
        self._members: dict[str, tarfile.TarInfo] = {}  # by normal name

    def run(self) -> None:
        """Write folders and files, then links, whose targets may follow them."""
        links = []
        for count, member in enumerate(self._archive, 1):
            path = self._path(member)
            self._members[_normal(member.name)] = member
            if count > MAX_MEMBERS:
                raise tarfile.ExtractError(f"it has more than {MAX_MEMBERS:,} members")
            if member.isdir():
                path.mkdir(parents=True, exist_ok=True)
            elif member.islnk() or member.issym():
                links.append(member)
            else:
                self._write(member, path)
        for link in links:
            self._write(self._target(link), self._path(link))

    def _path(self, member: tarfile.TarInfo) -> Path:
        path = (self._root / member.name.lstrip("/")).resolve()
        if not path.is_relative_to(self._root):
            raise tarfile.ExtractError(f"'{member.name}' would be written outside of the folder")
        return path

    def _target(self, link: tarfile.TarInfo) -> tarfile.TarInfo:
        """The member at the end of a chain of links."""
        found = link
        for _ in range(MAX_LINKS):
            if not (found.islnk() or found.issym()):
                return found
            base = posixpath.dirname(found.name.lstrip("/")) if found.issym() else ""
            name = posixpath.normpath(posixpath.join(base, found.linkname))
            if name not in self._members:
                raise tarfile.ExtractError(f"'{link.name}' links out of the archive")
            found = self._members[name]
        raise tarfile.ExtractError(f"'{link.name}' is a link without an end")

    def _write(self, member: tarfile.TarInfo, path: Path) -> None:
        source = self._archive.extractfile(member)
        if source is None:
            raise tarfile.ExtractError(f"'{member.name}' is not a file")
        if self._room is not None:
            self._room -= member.size
            if self._room < 0:
                raise tarfile.ExtractError("its files are larger than the archive")
        path.parent.mkdir(parents=True, exist_ok=True)
        with source, path.open("wb") as target:
            shutil.copyfileobj(source, target)


def _normal(name: str) -> str:
    return posixpath.normpath(name.lstrip("/"))
