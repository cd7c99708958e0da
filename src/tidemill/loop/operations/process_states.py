"""The state of the processes that `tidemill up` supervises: a file in the home.

The API and its metrics, `/api/ready` and the doctor read it, so that a process that keeps failing
is seen although the others continue.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tidemill.state_files import decode_state

FILE = "processes.json"


class ProcessState(msgspec.Struct, frozen=True):
    """One supervised process.

    Attributes:
        pid: Its process id; None while it waits for its restart.
        restarts: How often it was started again.
        failures: How often in a row it ended soon after its start.
        exit_code: How it ended last.
        output: The file of its output.
    """

    name: str
    pid: int | None
    restarts: int
    failures: int
    exit_code: int | None
    output: str

    @property
    def problem(self) -> str | None:
        """Why it does not work; None if it runs."""
        if self.pid is not None:
            return None
        how = "cannot be started" if self.exit_code is None else f"ended (exit {self.exit_code})"
        times = f", {self.failures} times in a row" if self.failures > 1 else ""
        return f"{self.name} {how}{times}; it is restarted"


class ProcessStates(msgspec.Struct, frozen=True):
    """The processes of one supervisor, whose process id is `supervisor`."""

    supervisor: int
    processes: tuple[ProcessState, ...]


def write_states(home: Path, processes: Sequence[ProcessState]) -> None:
    """Replace the file; errors such as a full disk are ignored."""
    draft = home / f".{FILE}.{os.getpid()}"
    with contextlib.suppress(OSError):
        draft.write_bytes(msgspec.json.encode(ProcessStates(os.getpid(), tuple(processes))))
        draft.replace(home / FILE)


def remove_states(home: Path) -> None:
    """Remove the file: no process is supervised any more."""
    (home / FILE).unlink(missing_ok=True)


def read_states(home: Path) -> tuple[ProcessState, ...]:
    """Return the supervised processes; none if no supervisor of this home runs."""
    try:
        found = decode_state((home / FILE).read_bytes(), ProcessStates)
        os.kill(found.supervisor, 0)
    except PermissionError:  # it runs as another user
        return found.processes
    except (OSError, ValueError, OverflowError):  # of another shape, or no process id
        return ()
    return found.processes


def process_problem(home: Path) -> str | None:
    """Return which processes do not run; None if all do, or nothing supervises any."""
    return "; ".join(filter(None, (each.problem for each in read_states(home)))) or None


class ProcessMetrics(Collector):
    """Prometheus metrics of the supervised processes."""

    def __init__(self, states: Callable[[], Sequence[ProcessState]]) -> None:
        self._states = states

    def describe(self) -> list[Metric]:
        return list(_families(()))

    def collect(self) -> Iterator[Metric]:
        yield from _families(self._states())


def _families(states: Sequence[ProcessState]) -> Iterator[Metric]:
    up = GaugeMetricFamily(
        "tidemill_process_up", "1 if a process of `tidemill up` runs", labels=["process"]
    )
    restarts = CounterMetricFamily(
        "tidemill_process_restarts", "Restarts of a process of `tidemill up`", labels=["process"]
    )
    for state in states:
        up.add_metric([state.name], float(state.pid is not None))
        restarts.add_metric([state.name], state.restarts)
    yield from (up, restarts)
