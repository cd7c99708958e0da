"""Unpacking of tar archives that somebody else may have made.

`TarFile.extractall(filter="data")` is what this would be, but the first releases of Python 3.11
(that of Debian 12 is one) do not have it.
"""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path


def extract(archive: tarfile.TarFile, folder: Path) -> None:
    """Write the archive's files and folders below a folder, and nothing anywhere else.

    An absolute name counts from the folder on. A link becomes a copy of what it points to in the
    archive.

    Raises:
        tarfile.ExtractError: A name leads out of the folder, a link out of the archive, or a member
            is no file (a device, a pipe); what came before it is written.
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
        raise tarfile.ExtractError(f"'{member.name}' is no file")
    with source, path.open("wb") as target:
        shutil.copyfileobj(source, target)
