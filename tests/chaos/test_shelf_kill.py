"""The process that installs bundles is killed at any time: the shelf shows only whole bundles."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bundles import make_bundle
from tidemill import bundle
from tidemill.serving.shelf.shelf import collect_garbage, open_bundle, read_state

pytestmark = pytest.mark.chaos

# Installs the same two bundles as new versions in turn, and writes the state after each.
INSTALLER = """
import itertools, sys
from pathlib import Path
from tidemill import bundle
from tidemill.serving.shelf.shelf import ShelfState, collect_garbage, install_bundle, write_state

shelf, start = Path(sys.argv[1]), int(sys.argv[2])
sources = [bundle.read(Path(folder)) for folder in sys.argv[3:]]
for number in itertools.count(start):
    source = sources[number % len(sources)]
    entry = install_bundle(shelf, "m", str(number), source.path, source.digest)
    state = ShelfState(default="m", models={"m": entry})
    write_state(shelf, state)
    collect_garbage(shelf, state, keep=2)
    print(number, flush=True)
"""


def test_a_kill_at_any_time_leaves_only_whole_bundles(tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    sources = [make_bundle(tmp_path / str(n), bytes([n]) * 3_000_000) for n in range(2)]
    reached = 0
    for life in range(8):
        command = [sys.executable, "-c", INSTALLER, str(shelf), str(reached + 1)]
        command += [str(source.path) for source in sources]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as installer:
            assert installer.stdout
            for _ in range(random.randint(1, 4)):
                reached = int(installer.stdout.readline())
            with pytest.raises(subprocess.TimeoutExpired):
                installer.wait(random.random() / 20)
            installer.send_signal(signal.SIGKILL)
            lines = installer.stdout.read().splitlines(keepends=True)
            reached = max([reached, *(int(line) for line in lines if line.endswith("\n"))])
        state = read_state(shelf)
        assert int(state.models["m"].version) >= reached, f"life {life}"
        open_bundle(shelf, state.models["m"])
        for folder in (shelf / "m").iterdir():
            bundle.read(folder)
        reached = int(state.models["m"].version)
    collect_garbage(shelf, read_state(shelf), keep=1)
    assert len(list((shelf / "m").iterdir())) == 1
