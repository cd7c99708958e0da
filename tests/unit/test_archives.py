"""Archives are extracted inside their folder only."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tidemill.archives import extract


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = 4 if kind == tarfile.REGTYPE else 0
    return info


def unpack(folder: Path, members: Sequence[tarfile.TarInfo]) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as made:
        for info in members:
            made.addfile(info, io.BytesIO(b"text"))
    file.seek(0)
    folder.mkdir()
    with tarfile.open(fileobj=file) as archive:
        extract(archive, folder)


def written(folder: Path) -> dict[str, bytes]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_files_folders_and_links_inside_are_written(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    unpack(
        inside,
        [
            member("a/b.txt"),
            member("empty", tarfile.DIRTYPE),
            member("/c.txt"),
            member("hard", tarfile.LNKTYPE, "a/b.txt"),
            member("a/soft", tarfile.SYMTYPE, "b.txt"),
        ],
    )
    assert written(inside) == dict.fromkeys(["a/b.txt", "a/soft", "c.txt", "hard"], b"text")
    assert (inside / "empty").is_dir()
    assert not (inside / "a/soft").is_symlink()


@pytest.mark.parametrize(
    "bad",
    [
        member("../out.txt"),
        member("a/../../out.txt"),
        member("out", tarfile.SYMTYPE, "../../etc/passwd"),
        member("out", tarfile.LNKTYPE, "/etc/passwd"),
        member("pipe", tarfile.FIFOTYPE),
        member("null", tarfile.CHRTYPE),
    ],
)
def test_members_outside_the_folder_and_special_files_are_refused(
    tmp_path: Path, bad: tarfile.TarInfo
) -> None:
    with pytest.raises(tarfile.ExtractError):
        unpack(tmp_path / "inside", [member("first.txt"), bad])
    assert written(tmp_path) == {"inside/first.txt": b"text"}
