"""The monitor with real servers: healthy, without a key, unreachable, and going down."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from tests.contract.serving.conftest import Start, Tidemill, wait_until
from tests.journal_records import read_folder
from tests.servers import free_port
from tidemill.cli.app import app as cli
from tidemill.cli.commands.monitor.monitor import parse_duration
from tidemill.errors import InputError
from tidemill.loop.monitoring.api_monitor import ProbeBuffer, monitor_api
from tidemill.loop.monitoring.api_monitor_report import summarise, write_reports
from tidemill.loop.monitoring.api_probe import ApiProber
from tidemill.settings import Settings
from tidemill.steps.plots.timelines import ProbeSeries, plot_api_monitor
from tidemill.stores.database.database import Database
from tidemill.stores.database.tables import monitor_results
from tidemill.stores.monitoring.api_probes import ApiProbes, Probe
from tidemill.stores.predictions.prediction_rows import rows_from_record


@pytest.fixture(autouse=True)
def _close_log() -> Iterator[None]:
    """Close the log file that the command opens in the test process."""
    yield
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, logging.FileHandler)]:
        root.removeHandler(handler)
        handler.close()


def run(home: Path, url: str, *words: str) -> Any:
    reports = home.parent / "reports"
    words = ("monitor", url, "--reports", str(reports), "--home", str(home), *words)
    return CliRunner().invoke(cli, list(words))


def address(server: Tidemill) -> str:
    return f"http://127.0.0.1:{server.port}"


def rows(home: Path) -> list[dict[str, Any]]:
    database = Database(Settings(home=home).database_uri)
    found = database.rows(select(monitor_results).order_by(monitor_results.c.id))
    database.close()
    return found


def test_a_healthy_server_is_reported_healthy(home: Path, served: Tidemill) -> None:
    done = run(home, address(served), "--every", "50ms", "--for", "120ms")
    assert done.exit_code == 0, done.output
    summary = json.loads((home.parent / "reports" / "monitoring_summary.json").read_text())
    models = {f"predict {name}" for name in served.service.models.predictors}
    assert set(summary["probes"]) == {"health", "ready"} | models
    assert summary["healthy"]
    assert (summary["availability"], summary["outages"]) == (1.0, [])
    assert set(summary["versions"]) == set(served.service.models.predictors)
    assert all(found["milliseconds"]["median"] > 0 for found in summary["probes"].values())
    picture = (home.parent / "reports" / "api_monitoring_report.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    kept = rows(home)
    assert len(kept) == sum(found["probes"] for found in summary["probes"].values()) > 0
    assert {row["probe"] for row in kept} == {"health", "ready", "predict"}
    assert all(row["healthy"] and row["status"] == 200 for row in kept)


def test_probes_are_stored_apart_from_traffic(start: Start, shelf: Path) -> None:
    server = start()
    prober = ApiProber(address(server))
    prober.probe_all()
    prober.close()
    server.stop()
    records = list(read_folder(server.service.settings.journal_folder))
    assert records
    assert {row.role for record in records for row in rows_from_record(record)} == {"probe"}


def test_a_missing_key_is_reported_and_a_valid_key_works(
    start: Start, shelf: Path, key: str, home: Path
) -> None:
    url = address(start(auth="on"))
    done = run(home, url, "--every", "1s", "--for", "1ms", "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)["probes"]
    assert found["health"]["healthy"] == 1
    errors = [e for name in found if name.startswith("predict") for e in found[name]["errors"]]
    assert errors
    assert all(error.startswith("403") for error in errors)
    done = run(home, url, "--every", "1s", "--for", "1ms", "--key", key)
    assert done.exit_code == 0, done.output


def test_an_unreachable_server_is_reported(home: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = run(home, url, "--every", "10ms", "--for", "15ms", "--json")
    assert done.exit_code == 1
    summary = json.loads(done.stdout)
    assert summary["availability"] == 0.0
    assert summary["probes"]["health"]["statuses"].keys() == {"no answer"}
    assert summary["outages"][0]["to"] is None
    assert all(not row["healthy"] and "Connect" in row["error"] for row in rows(home))


def test_a_server_that_goes_down_is_reported(start: Start, shelf: Path, home: Path) -> None:
    server = start()
    url, model = address(server), next(iter(server.service.models.predictors))
    prober, stop = ApiProber(url, models=[model], timeout=300), threading.Event()
    looks: list[bool] = []

    def tell(look: Any) -> None:
        looks.append(look[0].healthy)
        if looks == [True]:
            server.stop()
        elif looks[-1:] == [False] and not looks[-2]:
            stop.set()

    found = monitor_api(prober, every=0.01, seconds=None, stop=stop, on_probes=tell)
    prober.close()
    summary = write_reports(home.parent / "out", url, found, prober.versions)
    assert looks == [True, False, False]
    health = summary["probes"]["health"]
    assert (health["probes"], health["healthy"]) == (3, 1)
    assert {outage["probe"].split()[0] for outage in summary["outages"]} == {
        "health", "ready", "predict"
    }  # fmt: skip


def test_ctrl_c_writes_the_report_so_far(home: Path, served: Tidemill) -> None:
    reports = home.parent / "reports"
    words = ["monitor", address(served), "--every", "20ms", "--reports", str(reports)]
    command = [sys.executable, "-m", "tidemill", *words, "--home", str(home)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        wait_until(lambda: "ok" in process.stderr.readline(), "the first look")
        process.send_signal(signal.SIGINT)
        process.stderr.read()
        assert process.wait(300) == 0
    summary = json.loads((reports / "monitoring_summary.json").read_text())
    assert summary["healthy"]
    assert (reports / "api_monitoring_report.png").exists()


def probe(second: float, healthy: bool, name: str = "health") -> Probe:
    error = None if healthy else "500: broken"
    return Probe(second, "http://x/health", name, healthy, 200, 10.0 + second, error)


def test_outages_run_from_the_first_failure_to_the_first_answer() -> None:
    found = [probe(n, n not in (2, 3, 6)) for n in range(7)]
    summary = summarise("http://x", found, {})
    assert [(o["from"][17:19], o["seconds"]) for o in summary["outages"]] == [
        ("02", 2.0), ("06", 0.0)
    ]  # fmt: skip
    figures = summary["probes"]["health"]
    assert figures["errors"] == {"500: broken": 3}
    assert figures["milliseconds"]["median"] == 12.5
    assert summary["availability"] == 4 / 7


def test_a_report_without_findings_is_written(tmp_path: Path) -> None:
    summary = write_reports(tmp_path, "http://x", [], {})
    assert (summary["healthy"], summary["availability"]) == (False, None)
    assert plot_api_monitor({}, "nothing").axes


def test_the_plot_marks_failures(tmp_path: Path) -> None:
    line = ProbeSeries(np.arange(3.0), np.array([1.0, np.nan, 2.0]), np.array([True, False, True]))
    (axes,) = plot_api_monitor({"health": line}, "t").axes
    assert "1 of 3 failed" in axes.get_title("left")


def test_findings_are_stored_once_the_database_is_reachable(database: Database) -> None:
    nowhere = Database(f"postgresql://me@127.0.0.1:{free_port()}/x")
    buffer = ProbeBuffer(ApiProbes(nowhere))
    buffer.add([probe(1, True)])
    assert len(buffer.pending) == 1
    nowhere.close()
    buffer._results = ApiProbes(database)
    buffer.add([probe(2, False)])
    page = ApiProbes(database).page(probe="health")
    assert [row["time"] for row in page.items] == [2.0, 1.0]
    assert buffer.pending == []


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://", "http://x:y", ""])
def test_invalid_addresses_are_refused(url: str) -> None:
    with pytest.raises(InputError, match="not the URL of an API"):
        ApiProber(url)


@pytest.mark.parametrize(("text", "seconds"), [("500ms", 0.5), ("10s", 10), ("1.5m", 90)])
def test_durations_are_parsed(text: str, seconds: float) -> None:
    assert parse_duration(text, "--every") == seconds


@pytest.mark.parametrize("text", ["10", "0s", "ten", "-5s", ""])
def test_invalid_durations_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a duration"):
        parse_duration(text, "--every")
