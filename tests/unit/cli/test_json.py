"""The `--json` output of every command, in a small real home."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.contract.serving.conftest import make_shelf
from tests.contract.test_console import both_planes
from tidemill.cli.app import app, command_tree
from tidemill.platform import Platform
from tidemill.settings import Settings

ROOT = command_tree()
MODEL = "iris-classifier"
ROWS = "sepal_length,sepal_width,petal_length,petal_width\n5.1,3.5,1.4,0.2\nx,1,1,1\n"


def promised(*path: str) -> set[str]:
    """The keys that a command's help promises."""
    command = ROOT
    for name in path:
        command = command.commands[name]
    said = re.search(r"--json prints [a-z ]+: (.*?)\.\n", f"{command.epilog}\n", re.S)
    assert said is not None
    return set(re.findall(r"\w+", said[1]))


class Home:
    """A home, and the JSON that commands in it print."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *words: str, code: int = 0, at_home: bool = True) -> Any:
        place = ["--home", str(self.folder)] if at_home else []
        done = CliRunner().invoke(app, [*words, "--json", *place], catch_exceptions=False)
        assert done.exit_code == code, done.output
        value = json.loads(done.stdout)
        path = words[:2] if words[0] in ("keys", "audit") else words[:1]
        for item in value if isinstance(value, list) else [value]:
            assert set(item) <= promised(*path), words
        return value


@pytest.fixture(scope="module")
def tidemill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Two versions of a model, of which the second replaced the first."""
    home = Home(tmp_path_factory.mktemp("json") / "home")
    iris = ("-p", "gallery:iris", "--only", "logistic_regression")
    trained = home("train", *iris, "--set", "logistic_regression.C=1", "--promote")
    assert trained["version"] == trained["verdict"]["version"] == "1"
    assert trained["verdict"]["promoted"]
    again = home("train", *iris, "--set", "logistic_regression.C=2", "--promote", code=3)
    assert not again["verdict"]["promoted"]
    return home


def test_models_are_listed_promoted_and_rolled_back(tidemill: Home) -> None:
    (model,) = tidemill("models")
    assert model["name"] == MODEL
    assert model["aliases"]["champion"] == "1"
    assert {each["version"] for each in tidemill("models", MODEL)} == {"1", "2"}
    closed = tidemill("promote", MODEL, "--version", "2", code=3)
    assert not closed["promoted"]
    opened = tidemill("promote", MODEL, "--version", "2", "--force", "--reason", "a test")
    assert opened["forced"]
    assert set(opened) == promised("promote")
    moved = tidemill("rollback", MODEL)
    assert (moved["version"], moved["replaced"]) == ("1", "2")
    assert tidemill("challenge", MODEL, "--off")["mode"] == "off"


def test_commands_that_write_files_name_them(tidemill: Home, tmp_path: Path) -> None:
    rows, scored = tmp_path / "rows.csv", tmp_path / "scored.csv"
    rows.write_text(ROWS)
    said = tidemill("predict", MODEL, str(rows), "-o", str(scored), "--keep-going")
    assert said == {"output": str(scored), "rows": 2, "refused": 1}
    saved = tidemill("backup", str(tmp_path / "saved.tar"))
    again = Home(tmp_path / "other")("restore", str(tmp_path / "saved.tar"))
    assert saved["rows"] == again["rows"] > 0
    project = tidemill("init", str(tmp_path / "churn"), at_home=False)
    assert str(tmp_path / "churn" / "project.py") in project["files"]


def test_predict_feedback_and_watch(tidemill: Home, tmp_path: Path) -> None:
    assert tidemill("ingest", "--once")["rows"] == 0
    labels = tmp_path / "labels.csv"
    labels.write_text("id,actual\nunknown,Iris-setosa\n")
    assert tidemill("feedback", str(labels))["waiting"] == 1
    assert tidemill("export", str(tmp_path / "history")) == []
    (looked,) = tidemill("watch", MODEL, "--once")
    assert set(looked) == promised("watch")
    page = tmp_path / "page.html"
    assert tidemill("report", MODEL, "-o", str(page))["files"] == [str(page)]


def test_jobs_keys_and_the_audit_log(tidemill: Home) -> None:
    asked = tidemill("retrain", MODEL)
    (job,) = tidemill("jobs")
    assert job["id"] == asked["job"]
    assert set(job) == promised("jobs")
    assert tidemill("cancel", job["id"])["state"] == "cancelled"
    made = tidemill("keys", "create", "--name", "nightly")
    assert made["id"] in [key["id"] for key in tidemill("keys", "list")]
    assert tidemill("keys", "revoke", made["id"])["revoked"]
    assert tidemill("audit", "list")[0]["action"]
    assert tidemill("audit", "verify")["intact"]


def test_migrate_and_doctor(tidemill: Home) -> None:
    moved = tidemill("migrate")
    assert moved["before"] == moved["after"]
    found = tidemill("doctor")
    assert {each["state"] for each in found} <= {"ok", "warning"}


def test_demo_url_calls_a_running_api(tmp_path: Path) -> None:
    """Any model will do, here one that takes pictures; without rights, 403 is as it should be."""
    home = Home(tmp_path / "home")
    make_shelf(home.folder / "shelf", ["pictures"], default=None)
    platform = Platform.open(Settings(home=home.folder))
    try:
        token, _ = platform.keys.create(("predict",), actor="test")
        with both_planes(platform) as url:
            walked = home("demo", "--url", url, "--key", token)
            assert all(each["ok"] for each in walked)
            statuses = {each["path"]: each["status"] for each in walked}
            assert statuses["/feedback"] == statuses["/metrics"] == statuses["/jobs"] == 200
            assert [each["status"] for each in walked if each["what"] == "invalid input"] == [422]
            assert token not in json.dumps(walked)
            stranger = home("demo", "--url", url, "--key", "tm_no_key_of_ours", code=1)
            assert {each["status"] for each in stranger if not each["ok"]} == {403}
            keyless = home("demo", "--url", url)
            assert 403 in {each["status"] for each in keyless}
            missing = home("demo", "--url", url, "--key", token, "--model", "nobody", code=1)
            assert 404 in {each["status"] for each in missing}
    finally:
        platform.close()
