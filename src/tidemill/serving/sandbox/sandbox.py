"""Starts the process that tests a new model, and judges how it ends. See decision 206.

run(path)                            # refuses a model that hangs, crashes or needs too much
Sandbox(home / "tested").test(bundle)    # the same, once per machine for each bundle
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from tidemill.bundle import Bundle
from tidemill.errors import BundleError, UnavailableError
from tidemill.serving.sandbox.model_process import REFUSED

MEMORY_SHARE = 0.75
LEAST_MEMORY = 2**30
BYTES_PER_SECOND = 10_000_000
REFUSED_SECONDS = 300.0  # how long a refusal holds
MARK_SECONDS = 30 * 86400.0  # after which a bundle is tested again
PACKAGES = {"onnx": "onnxruntime", "skops": "scikit-learn"}  # whose code runs the model


def memory_limit() -> int:
    """Bytes that a model may need: three quarters of the memory of the machine or container."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            found.append(int(Path("/sys/fs/cgroup", name).read_text()))
    return max(LEAST_MEMORY, int(MEMORY_SHARE * min(found)))


@dataclass(frozen=True)
class SandboxLimits:
    """What the process may use, in seconds and bytes; `run` is for one run of the model.

    `wall` and `cpu` are longer by a second for every `BYTES_PER_SECOND` of the model.
    """

    wall: float = 60.0
    cpu: int = 120
    run: float = 30.0
    memory: int | None = None

    def for_size(self, size: int) -> SandboxLimits:
        """The limits for a model of so many bytes."""
        more = size // BYTES_PER_SECOND
        return replace(self, wall=self.wall + more, cpu=self.cpu + more)

    def arguments(self) -> list[str]:
        memory = memory_limit() if self.memory is None else self.memory
        return ["--memory", str(memory), "--cpu", str(self.cpu), "--seconds", str(self.run)]


def run(path: Path, trusted: Sequence[str] = (), limits: SandboxLimits | None = None) -> None:
    """Load and run a bundle's folder or an ONNX file in a process of its own.

    Raises:
        BundleError: It cannot be loaded or run within the limits.
        UnavailableError: The process cannot be started.
    """
    files = path.iterdir() if path.is_dir() else [path]
    limits = (limits or SandboxLimits()).for_size(sum(file.stat().st_size for file in files))
    command = [sys.executable, "-m", "tidemill.serving.sandbox.model_process", str(path)]
    more = ["--trusted", *trusted] if trusted else []
    try:
        done = subprocess.run(
            [*command, *limits.arguments(), *more],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=limits.wall,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BundleError(
            f"{path} was not loaded and run within {limits.wall:g} s in a process of its own.",
            remedy="Serve a smaller model, or one whose graph ends.",
        ) from error
    except OSError as error:
        raise UnavailableError(
            f"The process that tests {path} cannot be started: {error}"
        ) from error
    if done.returncode:
        raise BundleError(_reason(path, done.returncode, done.stderr.decode(errors="replace")))


def _reason(path: Path, code: int, output: str) -> str:
    lines = output.strip().splitlines()
    if code == REFUSED and lines:
        return "\n".join(lines)[-2000:]
    last = f": {lines[-1][:500]}" if lines else "."
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit {code}"
    return f"{path} ended the process that tested it with {how}{last}"


class Sandbox:
    """Tests each bundle once per machine; what it refuses stays refused for a while.

    Args:
        folder: Where bundles that passed are marked; several processes may share it.
        trusted: Types that a native fallback may rebuild.
    """

    def __init__(
        self, folder: Path, trusted: Sequence[str] = (), limits: SandboxLimits | None = None
    ) -> None:
        self._folder = folder
        self._trusted = trusted
        self._limits = limits
        self._refused: dict[str, tuple[str, float]] = {}  # why, and until when, by digest

    def test(self, bundle: Bundle) -> None:
        """Return if the bundle can be loaded and run.

        Raises:
            BundleError: It cannot.
            UnavailableError: It cannot be tested at present.
        """
        if bundle.manifest.runtime not in PACKAGES:
            return  # it has a process of its own anyway
        why, until = self._refused.get(bundle.digest, ("", 0.0))
        if time.monotonic() < until:
            raise BundleError(why)
        with self._mark(bundle) as mark:
            if mark is not None and mark.read():
                return
            try:
                run(bundle.path, self._trusted, self._limits)
            except BundleError as error:
                until = time.monotonic() + REFUSED_SECONDS
                self._refused[bundle.digest] = str(error), until
                raise
            if mark is not None:
                mark.write("passed\n")

    @contextlib.contextmanager
    def _mark(self, bundle: Bundle) -> Iterator[IO[str] | None]:
        """The bundle's mark, locked; empty before it has passed. None if it cannot be kept."""
        package = PACKAGES[bundle.manifest.runtime]
        version = "unknown"
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # another build of it
            version = importlib.metadata.version(package)
        name = f"{bundle.digest}-{package}-{version}"
        with contextlib.ExitStack() as stack:
            mark = None
            with contextlib.suppress(OSError):
                self._folder.mkdir(parents=True, exist_ok=True)
                self._forget_old()
                mark = stack.enter_context((self._folder / name).open("a+"))
                fcntl.flock(mark, fcntl.LOCK_EX)
                mark.seek(0)
            yield mark

    def _forget_old(self) -> None:
        for path in self._folder.iterdir():
            if time.time() - path.stat().st_mtime > MARK_SECONDS:
                path.unlink(missing_ok=True)
