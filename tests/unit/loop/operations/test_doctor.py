"""The doctor: finds what is broken, and says how to fix it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import text, update

from tests.bundles import make_bundle
from tests.servers import free_port
from tidemill import keyring
from tidemill.loop.operations.doctor import CHECKS, Finding, run_checks
from tidemill.loop.operations.process_states import ProcessState, write_states
from tidemill.platform import Platform
from tidemill.serving.shelf.shelf import ShelfState, install_bundle, write_state
from tidemill.settings import Settings
from tidemill.stores.audit import AuditEntry
from tidemill.stores.database.schema import VERSION_TABLE
from tidemill.stores.database.tables import audit, jobs
from tidemill.stores.jobs.jobs import NewJob


@pytest.fixture
def platform(home: Path) -> Platform:
    (home.parent / "project.py").write_text(
        "from sklearn.linear_model import Ridge\n"
        "from tidemill import Candidate, Project, sklearn_dataset\n"
        "project = Project('sugar', sklearn_dataset('diabetes'), 'target', "
        "[Candidate('r', Ridge)])\n"
    )
    opened = Platform.open(Settings())
    opened.keys.create(("admin",), actor="test")
    return opened


def found(part: str, **changes: object) -> Finding:
    return CHECKS[part](Settings(**changes))  # type: ignore[arg-type]


def test_a_new_home_has_no_problems(platform: Platform) -> None:
    platform.close()
    findings = run_checks(Settings())
    assert [f for f in findings if f.state != "ok" and f.part != "disk"] == []
    assert {f.part for f in findings} == set(CHECKS)


def test_every_problem_has_a_remedy(platform: Platform, home: Path) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    with platform.database.write() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    platform.close()
    home.joinpath("keys.json").chmod(0o644)
    redis = f"redis://{nowhere}/0"
    settings = Settings(broker_url=redis, limits_url=redis, tracking_uri=f"http://{nowhere}")
    findings = {f.part: f for f in run_checks(settings)}
    for part in ("database", "broker", "limits", "jobs", "mlflow", "keys", "audit"):
        assert findings[part].state == "error", part
        assert findings[part].remedy, part
    assert "newer version of Tidemill" in str(findings["database"].remedy)
    assert "chmod 600" in str(findings["keys"].remedy)
    assert "error" in {finding.state for finding in findings.values()}


def test_jobs_that_no_worker_runs_are_found(platform: Platform) -> None:
    platform.submit(NewJob("train", "sugar"))
    assert found("jobs").state == "ok"
    with platform.database.write() as connection:
        connection.execute(update(jobs).values(not_before=jobs.c.not_before - 120))
    platform.close()
    finding = found("jobs")
    assert finding.state == "error"
    assert "worker" in str(finding.remedy)


def test_a_changed_audit_log_is_found(platform: Platform) -> None:
    platform.audit.append(AuditEntry("ops", "promote"))
    with platform.database.write() as connection:
        connection.execute(update(audit).where(audit.c.seq == 2).values(actor="nobody"))
    platform.close()
    assert found("audit").detail == "row 2 was changed"


def test_a_misspelt_setting_is_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_WORKER_CONCURENCY", "4")
    finding = found("settings")
    assert finding.state == "warning"
    assert "TIDEMILL_WORKER_CONCURENCY" in finding.detail


def test_keys_that_expire_soon_are_found(home: Path) -> None:
    assert found("keys").state == "warning"
    ring, _, record = keyring.add(keyring.new_keyring(), ("predict",), expires=time.time() + 3600)
    keyring.save(home / "keys.json", ring)
    assert record.id in found("keys").detail


def test_a_project_that_does_not_load_is_named(home: Path) -> None:
    (home.parent / "project.py").write_text("1 / 0")
    finding = found("projects")
    assert finding.state == "error"
    assert "ZeroDivisionError" in finding.detail


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[]", b"\0" * 99])
def test_damaged_state_is_found(platform: Platform, content: bytes) -> None:
    platform.close()
    settings = Settings()
    files = {"shelf": settings.shelf / "state.json", "keys": settings.keys_file}
    settings.shelf.mkdir(exist_ok=True)
    for path in files.values():
        path.write_bytes(content)
    findings = {finding.part: finding for finding in run_checks(settings)}
    for part, path in files.items():
        assert findings[part].state == "error"
        assert f"{path} cannot be read" in findings[part].detail
        assert findings[part].remedy


def test_what_the_doctor_finds_of_a_shelf(platform: Platform, tmp_path: Path) -> None:
    platform.close()
    shelf = Settings().shelf
    assert found("shelf").detail == "empty; nothing has been served from here yet"
    made = make_bundle(tmp_path / "made")
    state = ShelfState(models={"m": install_bundle(shelf, "m", "1", made.path, made.digest)})
    write_state(shelf, msgspec.structs.replace(state, synced_at=time.time()))
    assert found("shelf").state == "ok"
    write_state(shelf, msgspec.structs.replace(state, synced_at=time.time() - 4000))
    assert (found("shelf").state, "sync" in str(found("shelf").remedy)) == ("warning", True)
    write_state(shelf, msgspec.structs.replace(state, problems={"m": "No bundle."}))
    assert found("shelf").detail == "m: No bundle."
    (shelf / "state.json").unlink()
    assert "is missing, but there are bundles" in found("shelf").detail
    write_state(shelf, state)
    next((shelf / "m").glob("*/signature.json")).write_text("{}")
    findings = {finding.part: finding for finding in run_checks(Settings())}
    assert "signature.json does not match" in findings["shelf"].detail


def test_processes_that_fail_are_found(home: Path) -> None:
    home.mkdir()
    assert found("processes").detail == "none supervised"
    runs = ProcessState("sync", 1, 0, 0, None, "sync.out")
    replace = msgspec.structs.replace
    for state, expected, detail in (
        (runs, "ok", "1 supervised"),
        (replace(runs, failures=3), "warning", "restarted: sync 3 times in a row"),
        (replace(runs, pid=None, exit_code=2), "error", "sync ended (exit 2); it is restarted"),
    ):
        write_states(home, [state])
        assert (found("processes").state, found("processes").detail) == (expected, detail)
    for damaged in (b"", b"{}", b"[]", b"\xff", b'{"supervisor": 99999999999, "processes": []}'):
        (home / "processes.json").write_bytes(damaged)
        assert found("processes").detail == "none supervised"


def test_a_missing_key_file_is_told_from_a_new_home(platform: Platform) -> None:
    platform.close()
    assert found("keys").detail == "1 keys"
    Settings().keys_file.unlink()
    finding = found("keys")
    assert (finding.state, "was there" in finding.detail) == ("error", True)


def test_a_full_disk_is_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, state in ((2**40, "ok"), (2**30, "warning"), (2**20, "error")):
        usage = shutil.disk_usage(home.parent)._replace(free=free)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, usage=usage: usage)
        assert found("disk").state == state
        monkeypatch.undo()


def test_a_folder_that_cannot_be_written_to_is_named(home: Path) -> None:
    home.mkdir()
    (home / "journal").symlink_to("/proc")
    assert found("journal").state == "error"


def test_damaged_journal_files_are_named(platform: Platform) -> None:
    platform.close()
    assert found("journal").state == "ok"
    folder = Settings().journal / "damaged"
    folder.mkdir(parents=True)
    for number in range(7):
        (folder / f"{number}-w.journal").write_bytes(b"x")
    finding = found("journal")
    assert finding.state == "warning"
    assert "7 damaged segments" in finding.detail
    assert "0-w.journal" in finding.detail
    assert finding.detail.endswith("and 2 more")
