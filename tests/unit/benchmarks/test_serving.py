from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.serving import load, results, server
from benchmarks.serving.payloads import Payload
from benchmarks.serving.peer import Endpoint, Installation, Peer
from benchmarks.serving.peers import NAMES, load_peers
from benchmarks.serving.report import markdown
from benchmarks.serving.results import Results, Sample
from benchmarks.serving.run import check
from benchmarks.serving.targets import TARGETS, times, verdicts

WORKLOAD = ("logistic", 1, 16)
ABOUT = {
    "date": "2026-01-01",
    "command": "make bench-serving",
    "machine": "2 cores",
    "python": "3.11.7",
    "load": "wrk 4",
    "servers": {"tidemill": "Tidemill", "flask": "Flask"},
}


def sample(case: str, number: int, cpu: float, **fields: Any) -> Sample:
    """A measurement of 1000 requests that took `cpu` microseconds of CPU each."""
    values: dict[str, Any] = {
        "case": case,
        "model": "logistic",
        "rows": 1,
        "connections": 16,
        "round": number,
        "requests": 1000,
        "seconds": 1.0,
        "cpu_seconds": cpu / 1000,
        "p50": 0.001,
        "p99": 0.002,
        "errors": 0,
    }
    return Sample(**{**values, **fields})


def results_of(*samples: Sample) -> Results:
    titles = {s.case: s.case.capitalize() for s in samples}
    return Results(about=ABOUT, titles=titles, samples=list(samples))


def test_ratios_are_taken_within_a_round() -> None:
    found = results_of(
        sample("tidemill", 0, 10), sample("flask", 0, 130),
        sample("tidemill", 1, 40), sample("flask", 1, 480),
    )  # fmt: skip
    assert found.ratios("flask", WORKLOAD) == pytest.approx([13, 12])


def test_a_measurement_with_failed_requests_counts_nowhere_and_is_named() -> None:
    found = results_of(
        sample("tidemill", 0, 10), sample("flask", 0, 130),
        sample("tidemill", 1, 10), sample("flask", 1, 1, errors=7),
    )  # fmt: skip
    assert found.ratios("flask", WORKLOAD) == pytest.approx([13])
    assert found.figure("flask", WORKLOAD, lambda s: s.cpu) == pytest.approx(130)
    assert "7 failed requests" in markdown(found)


def test_a_target_is_met_missed_or_not_measured() -> None:
    found = results_of(sample("tidemill", 0, 10), sample("flask", 0, 130))
    assert times("flask", "Flask", 13).verdict(found).met is True
    assert times("flask", "Flask", 13.1).verdict(found).met is False
    assert times("mlserver", "MLServer", 1).verdict(found).met is None


def test_the_page_has_a_line_for_every_target_and_every_failure() -> None:
    found = results_of(sample("tidemill", 0, 10), sample("flask", 0, 100))
    found.failures["bentoml"] = "does not install here: no such version"
    page = markdown(found, notes="## Notes\n\nA note.", picture="serving.png")
    for verdict in verdicts(found):
        assert f"| {verdict.target} | {verdict.found} |" in page
    assert len(verdicts(found)) == len(TARGETS)
    assert "**missed**" in page
    assert "bentoml: does not install here" in page
    assert "A note." in page
    assert "(serving.png)" in page


def test_results_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    found = results_of(sample("tidemill", 0, 10))
    found.cold["tidemill"] = [0.5]
    found.save(tmp_path / "serving.json")
    assert results.load(tmp_path / "serving.json") == found


def test_a_round_that_is_there_is_not_measured_again() -> None:
    found = results_of(sample("tidemill", 0, 10))
    assert found.has(WORKLOAD, 0)
    assert not found.has(WORKLOAD, 1)
    assert not found.has(("forest", 1, 16), 0)


def test_the_loads_result_is_found_among_what_wrk_says() -> None:
    line = (
        'RESULT {"requests": 5, "seconds": 1.5, "p50": 0.1, "p99": 0.2,'
        ' "bad_status": 1, "broken": 2}'
    )
    measured = load.read_result(f"Running 1s test\n  Latency 1ms\n{line}\n")
    assert (measured.requests, measured.bad_status, measured.broken) == (5, 1, 2)
    with pytest.raises(RuntimeError, match="unable to connect"):
        load.read_result("", "unable to connect")


def test_every_peer_has_a_file_and_asks_for_what_it_was_given() -> None:
    rows = [[0.5 * i for i in range(30)]]
    for peer in load_peers():
        assert peer.name in NAMES
        for endpoint in peer.endpoints:
            assert b"14.5" in endpoint.body(rows, "logistic")
            assert endpoint.path("logistic").startswith("/")
            assert b"\n" not in endpoint.body(rows, "logistic")


def test_an_unknown_peer_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(SystemExit, match=r"Unknown peer flusk; known peers: .*flask"):
        load_peers(("flusk",))


CHILDREN = """
import subprocess, sys, time
code = "import time\\ntotal = 0\\nend = time.process_time() + 0.5\\n"
code += "while time.process_time() < end: total += 1\\nprint('done', flush=True)\\ntime.sleep(900)"
child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
time.sleep(900)
"""


@pytest.fixture
def process_tree(tmp_path: Path) -> Iterator[server.Server]:
    """A server whose child leads a session of its own and uses 0.5 s of CPU."""
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", CHILDREN], stdout=output, start_new_session=True
        )
    installation = Installation(Path(sys.executable), tmp_path, Path(sys.executable))
    peer = Peer("family", "Family", (), lambda installation, model, port: [])
    running = server.Server(peer, installation, "logistic", 0, process, log)
    yield running
    running.stop()


def test_a_servers_children_are_counted_and_ended_with_it(process_tree: server.Server) -> None:
    deadline = time.monotonic() + 300
    while b"done" not in process_tree.log.read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    members = server.members(process_tree.process.pid)
    assert len(members) == 2
    # The kernel counts whole ticks of 10 ms and leaves out those begun, a few in each process; the
    # parent alone uses a tenth of this.
    assert process_tree.cpu_seconds() >= 0.4
    assert process_tree.memory()["rss"] >= process_tree.memory()["pss"] > 1 << 20
    process_tree.stop()
    assert server.members(process_tree.process.pid) == []
    assert [pid for pid in members if Path(f"/proc/{pid}/exe").exists()] == []


def test_a_wrong_answer_is_an_error_and_not_a_fast_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "wait_answer", lambda *arguments: {"predictions": [1, 0]})
    running: Any = SimpleNamespace(model="logistic", installation=None)
    check(running, Endpoint(), [Payload([[1.0], [2.0]], [1, 0])])
    with pytest.raises(RuntimeError, match="wrong answer"):
        check(running, Endpoint(), [Payload([[1.0], [2.0]], [1, 1])])
