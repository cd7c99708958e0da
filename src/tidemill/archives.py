"""Unpacks untrusted tar archives.

Replaces `TarFile.extractall(filter="data")`, which the first releases of Python 3.11 (including
that of Debian 12) lack.
"""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path


def extract(archive: tarfile.TarFile, folder: Path) -> None:
    """Extract an archive into a folder, and write nothing outside of it.

    Absolute names are relative to the folder. A link becomes a copy of its target in the archive.

    Raises:
        tarfile.ExtractError: A name leads out of the folder, a link leads out of the archive, or a
            member is a device or a pipe. Members before it have been extracted.
    """
    root = folder.resolve()
    for member in archive:
        path = (root / member.name.lstrip("/")).resolve()
        if not path.is_relative_to(root):
            raise tarfile.ExtractError(f"'{member.name}' would be written outside of the folder")
        if member.isdir():
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(archive, member, path)


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    try:
        source = archive.extractfile(member)
    except KeyError as error:
        raise tarfile.ExtractError(f"'{member.name}' links out of the archive") from error
    if source is None:
        raise tarfile.ExtractError(f"'{member.name}' is not a file")
    with source, path.open("wb") as target:
        shutil.copyfileobj(source, target)
