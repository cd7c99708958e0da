"""Install each peer in its own environment, which is reused by later runs."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from benchmarks.serving.peer import ROOT, Installation, Peer

OURS = str(ROOT)  # the requirement that installs Tidemill from this checkout


class InstallError(Exception):
    """Raised when a peer cannot be installed or prepared; the message is the end of the output."""


def install_peer(peer: Peer, cache: Path) -> Installation:
    """Return the peer's environment and prepared models, created if missing or out of date.

    Raises:
        InstallError: The packages do not install here, or the models cannot be prepared.
    """
    home = cache / "peers" / (peer.home or peer.name)
    installation = Installation(
        home / "env" / "bin" / "python", home / "models", Path(sys.executable)
    )
    stamp, expected = home / "done.json", json.dumps(_sources(peer))
    if stamp.is_file() and stamp.read_text() == expected:
        return installation
    shutil.rmtree(home, ignore_errors=True)
    installation.folder.mkdir(parents=True)
    try:
        _install(home / "env", peer.packages)
        peer.prepare(installation)
    except (RuntimeError, OSError) as error:
        raise InstallError(str(error)) from error
    stamp.write_text(expected)
    return installation


def versions(installation: Installation, names: tuple[str, ...]) -> dict[str, str]:
    """Return the installed versions of the packages."""
    code = (
        "import json, sys; from importlib.metadata import version\n"
        "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    )
    found = subprocess.run(
        [str(installation.python), "-c", code, *names], capture_output=True, text=True, check=True
    )
    return dict(json.loads(found.stdout))


def _sources(peer: Peer) -> list[str]:
    """List what the environment is built from; any change rebuilds it."""
    marks = [*peer.packages, sysconfig.get_python_version()]
    if OURS in peer.packages:
        sources = sorted((ROOT / "src").rglob("*.py"))
        marks.append(hashlib.sha256(b"".join(p.read_bytes() for p in sources)).hexdigest())
    return marks


def _install(env: Path, packages: tuple[str, ...]) -> None:
    _run([sys.executable, "-m", "venv", str(env)])
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    python = str(env / "bin" / "python")
    if uv:
        # Copy: files linked from uv's cache would share memory pages with other processes.
        copies = ["--link-mode", "copy"]
        refresh = ["--reinstall-package", "tidemill"] if OURS in packages else []
        _run([uv, "pip", "install", "--quiet", "--python", python, *copies, *refresh, *packages])
    else:
        _run([python, "-m", "pip", "install", "--quiet", *packages])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr or done.stdout).strip()[-1500:])
