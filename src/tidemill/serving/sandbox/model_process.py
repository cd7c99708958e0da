"""The process that loads and runs a new model first, within limits.

    python -m tidemill.serving.sandbox.model_process PATH --memory BYTES --cpu SECONDS

PATH is a bundle's folder, or an ONNX file, which is run on one row of zeros. The exit code is 0, or
`REFUSED` with the reason on stderr. See decision 206.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tidemill import bundle
from tidemill.errors import BundleError, TidemillError
from tidemill.processes import LINUX, reset_stop_signals
from tidemill.serving.model.loading import smoke_test
from tidemill.serving.model.runtime import load_runtime

REFUSED = 3
NICENESS = 5  # the server's requests come first
DTYPES = {
    "tensor(string)": np.str_,
    "tensor(bool)": np.bool_,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Test the model and exit."""
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("--memory", type=int, required=True)
    parser.add_argument("--cpu", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--trusted", nargs="*", default=())
    given = parser.parse_args(arguments)
    _end_with_parent()
    _limit(given.memory, given.cpu)
    try:
        if given.path.is_dir():
            _test_bundle(given.path, given.trusted, given.seconds)
        else:
            _test_onnx(given.path, given.seconds)
    except BundleError as error:
        _refuse(str(error))
    except Exception as error:  # a model may fail in any way
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, TidemillError):
            reason = error.detail
        _refuse(f"{given.path} cannot be loaded: {reason}")


def _refuse(why: str) -> None:
    print(why, file=sys.stderr, flush=True)
    sys.exit(REFUSED)


def _end_with_parent() -> None:
    reset_stop_signals()
    if LINUX:
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        with contextlib.suppress(OSError):  # if memory runs out, the kernel kills this one first
            Path("/proc/self/oom_score_adj").write_text("1000")


def _limit(memory: int, cpu: int) -> None:
    os.nice(NICENESS)
    for kind, limit in ((resource.RLIMIT_DATA, memory), (resource.RLIMIT_CPU, cpu)):
        _, hard = resource.getrlimit(kind)
        if hard == resource.RLIM_INFINITY or limit < hard:
            resource.setrlimit(kind, (limit, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _test_bundle(folder: Path, trusted: Sequence[str], seconds: float) -> None:
    opened = bundle.read(folder)
    smoke_test(opened, load_runtime(opened, trusted=trusted, seconds=seconds))


def _test_onnx(file: Path, seconds: float) -> None:
    """Run the file on zeros. A run may fail on them; what matters is that it ends."""
    from tidemill.serving.model.onnx_runtime import run_limited, start_session

    session = start_session(file.read_bytes())
    feeds = {entry.name: _zeros(entry) for entry in session.get_inputs()}
    try:
        run_limited(session.run, None, feeds, seconds=seconds)
    except (TidemillError, MemoryError):
        raise
    except Exception as error:
        if "alloc" in str(error).lower():
            raise


def _zeros(entry: Any) -> Any:
    shape = [size if isinstance(size, int) else 1 for size in entry.shape]
    return np.zeros(shape, DTYPES.get(entry.type, np.float32))


if __name__ == "__main__":
    main()
