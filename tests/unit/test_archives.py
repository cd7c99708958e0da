"""Archives are extracted inside their folder only."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill import archives
from tidemill.archives import extract


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = 4 if kind == tarfile.REGTYPE else 0
    return info


def pack(members: Sequence[tarfile.TarInfo]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as made:
        for info in members:
            made.addfile(info, io.BytesIO(b"text"))
    return file.getvalue()


def unpack(folder: Path, content: bytes, max_bytes: int | None = None) -> None:
    archive = folder.with_suffix(".tar")
    archive.write_bytes(content)
    try:
        extract(archive, folder, max_bytes=max_bytes)
    finally:
        archive.unlink()


def written(folder: Path) -> dict[str, bytes]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_files_folders_and_links_inside_are_written(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    members = [
        member("early", tarfile.SYMTYPE, "a/soft"),
        member("a/b.txt"),
        member("empty", tarfile.DIRTYPE),
        member("/c.txt"),
        member("hard", tarfile.LNKTYPE, "a/b.txt"),
        member("a/soft", tarfile.SYMTYPE, "b.txt"),
    ]
    unpack(inside, pack(members))
    names = ["a/b.txt", "a/soft", "c.txt", "early", "hard"]
    assert written(inside) == dict.fromkeys(names, b"text")
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
        member("disk", tarfile.BLKTYPE),
        member("itself", tarfile.SYMTYPE, "itself"),
        member("itself", tarfile.LNKTYPE, "itself"),
        member("itself", tarfile.SYMTYPE, "./a/../itself"),
        member("no file", tarfile.SYMTYPE, "."),
    ],
)
def test_members_outside_the_folder_and_special_files_are_refused(
    tmp_path: Path, bad: tarfile.TarInfo
) -> None:
    with pytest.raises(tarfile.ExtractError):
        unpack(tmp_path / "inside", pack([member("first.txt"), bad]))
    assert written(tmp_path) == {"inside/first.txt": b"text"}


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    circle = [member("a", tarfile.SYMTYPE, "b"), member("b", tarfile.LNKTYPE, "a")]
    with pytest.raises(tarfile.ExtractError, match="without an end"):
        unpack(tmp_path / "inside", pack(circle))


def test_links_that_multiply_a_file_are_refused(tmp_path: Path) -> None:
    copies = [member(f"copy {i}", tarfile.LNKTYPE, "a") for i in range(20)]
    with pytest.raises(tarfile.ExtractError, match="larger than the archive"):
        unpack(tmp_path / "inside", pack([member("a"), *copies]), max_bytes=40)
    assert sum(map(len, written(tmp_path).values())) <= 40


def test_a_member_that_claims_to_be_huge_is_not_written(tmp_path: Path) -> None:
    sparse = tarfile.TarInfo("sparse")
    sparse.pax_headers = {"GNU.sparse.size": str(1 << 40), "GNU.sparse.map": "0,4"}
    sparse.size = 4
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as made:
        made.addfile(sparse, io.BytesIO(b"text"))
    with pytest.raises(tarfile.ExtractError, match="larger than the archive"):
        unpack(tmp_path / "inside", file.getvalue(), max_bytes=1000)
    assert not written(tmp_path)


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    with pytest.raises(tarfile.ExtractError, match="more than 3 members"):
        unpack(tmp_path / "inside", pack([member("same") for _ in range(4)]))


def test_headers_that_never_end_are_refused(tmp_path: Path) -> None:
    """tarfile reads a header after a header with a long name by calling itself."""
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 2
    block = long_name.tobuf(tarfile.GNU_FORMAT) + b"x\0".ljust(512, b"\0")
    with pytest.raises(tarfile.ExtractError, match="RecursionError"):
        unpack(tmp_path / "inside", block * 2000)


@given(damage=st.lists(st.tuples(st.integers(0, 4095), st.binary(min_size=1, max_size=12))))
def test_a_damaged_archive_is_extracted_or_refused(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, bytes]]
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    members = [member("a/b"), member("c", tarfile.SYMTYPE, "a/b"), member("d", tarfile.DIRTYPE)]
    content = bytearray(pack(members))
    for place, found in damage:
        content[place : place + len(found)] = found
    with contextlib.suppress(tarfile.ExtractError, OSError):
        unpack(folder / "inside", bytes(content), max_bytes=1 << 20)
    assert set(os.listdir(folder)) <= {"inside"}
