"""Every code block in the README and the docs is run, or parsed for a stated reason."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.documents.blocks import Page, Step, commands, read_page
from tests.documents.compare import missing
from tests.documents.names import check_commands
from tests.documents.session import Session

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md"]
PAGES += [p for p in sorted((ROOT / "docs").rglob("*.md")) if p.parent.name != "decisions"]
SHELLS = ("console", "bash", "hidden")
RETRY_SECONDS = 120.0


def _parameters() -> Iterator[object]:
    for path in PAGES:
        page = read_page(path)
        if page.steps:
            marks = [pytest.mark.slow] if "slow" in page.marks else []
            yield pytest.param(page, id=str(path.relative_to(ROOT)), marks=marks)


@pytest.fixture(scope="module")
def home_with_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the churn model trained and promoted; copied for each page."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "work").mkdir()
    session = Session(folder)
    code, said = session.run(
        "tidemill init churn; cd churn; tidemill train --only logistic_regression --promote"
    )
    assert code == 0, said
    return folder / "work" / "churn"


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    (tmp_path / "work").mkdir()
    made = Session(tmp_path)
    yield made
    made.stop()


@pytest.mark.parametrize("page", list(_parameters()))
def test_a_page_shows_the_actual_output(
    page: Page, session: Session, request: pytest.FixtureRequest
) -> None:
    work = session.folder / "work"
    if "home" in page.marks:
        made = request.getfixturevalue("home_with_model")
        shutil.copytree(made, work, dirs_exist_ok=True)
    if "checkout" in page.marks:
        _check_out(work)
    if "servers" in page.marks:
        session.stands_for = {
            "postgresql+psycopg://tidemill@db.example.org/tidemill": request.getfixturevalue(
                "postgres_url"
            ),
            "redis://redis.example.org:6379/0": request.getfixturevalue("redis_url"),
        }
    if "torch" in page.marks and importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed, which this page needs")
    said = ""
    for step in page.steps:
        said = _follow(step, session, said)


def _check_out(work: Path) -> None:
    """Set up the folder as a clone after `make .venv/.dev`, so make installs nothing."""
    for name in ("Makefile", "pyproject.toml", "scripts", "src"):
        (work / name).symlink_to(ROOT / name)
    (work / ".venv").mkdir()
    (work / ".venv" / "bin").symlink_to(Path(sys.prefix) / "bin")
    for stamp in (".standard", ".dev"):
        (work / ".venv" / stamp).touch()


def _follow(step: Step, session: Session, said: str) -> str:
    """Run a step and return the output of the last command."""
    place = step.place.removeprefix(f"{ROOT}/")
    if step.language == "stop":
        session.stop()
    elif "file" in step.words:
        session.write(step.words["file"], step.text)
    elif "shows" in step.words:
        shown, there = _statements(step.text), session.path(step.words["shows"]).read_text()
        assert shown <= _statements(there), f"{place} is not in {step.words['shows']}:\n{there}"
    elif step.language in SHELLS and "parse" not in step.words:
        for command, shown in commands(step):
            said = _run(command, shown, step, session, said, place)
    elif step.language == "python" and "parse" not in step.words:
        block = session.folder / "block.py"
        block.write_text(step.text)
        said = _run(f"PYTHONPATH=. python {block}", [], step, session, said, place)
    elif step.language == "sql" and "parse" not in step.words:
        query = f"import duckdb; print(duckdb.sql({step.text!r}).fetchall())"
        said = _run(f"python -c {shlex.quote(query)}", [], step, session, said, place)
    else:
        _parse(step, session.folder, place)
    return said


def _run(
    command: str, shown: list[str], step: Step, session: Session, said: str, place: str
) -> str:
    wanted = int(step.words.get("exit", 0))
    deadline = time.monotonic() + RETRY_SECONDS
    while True:
        code = wanted
        if command:
            code, said = session.run(command)
        lacks = None
        if step.words.get("output") != "varies":
            lacks = missing(shown, said, numbers="numbers" not in step.words)
        if (code == wanted and lacks is None) or "retry" not in step.words:
            break
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    assert code == wanted, f"{place}: {command}\nexit {code}, not {wanted}:\n{said}"
    assert lacks is None, (
        f"{place}: {command}\nis missing from the output:\n{lacks}\noutput:\n{said}"
    )
    return said


def _statements(code: str) -> set[str]:
    """Return the statements of a module, independent of formatting."""
    return {ast.dump(node) for node in ast.parse(code).body}


def _parse(step: Step, folder: Path, place: str) -> None:
    """Check the syntax of a block that cannot be run or is not a program."""
    if step.language in SHELLS:
        lines = [command for command, _ in commands(step) if command]
        assert lines, f"{place}: nothing to parse"
        for line in lines:
            done = subprocess.run(["bash", "-n", "-c", line], capture_output=True, check=False)
            assert done.returncode == 0, f"{place}: {done.stderr.decode()}"
            check_commands(line, place)
            _check_manifests(line, place)
    elif step.language == "python":
        compile(step.text, place, "exec")
    elif step.language == "json":
        _read_json(step.text)
    elif step.language == "yaml":
        list(yaml.safe_load_all(step.text))
    elif step.language == "toml":
        tomllib.loads(step.text)
    elif step.language == "sql":
        import duckdb

        duckdb.extract_statements(step.text)
    elif step.language == "promql":
        _check_promql(step.text, folder, place)
    else:
        assert step.language == "text", f"{place}: no test for the language `{step.language}`"


def _check_manifests(line: str, place: str) -> None:
    """Check that the manifests of `kubectl apply -k` build, if kubectl is installed."""
    tool = shutil.which("kubectl")
    folder = re.match(r"kubectl apply -k (\S+)", line)
    if folder:
        assert (ROOT / folder[1] / "kustomization.yaml").is_file(), f"{place}: no {folder[1]}"
    if folder and tool:
        done = subprocess.run(
            [tool, "kustomize", str(ROOT / folder[1])], capture_output=True, check=False
        )
        assert done.returncode == 0, f"{place}: {done.stderr.decode()}"


def _read_json(text: str) -> None:
    """Parse one or more concatenated JSON documents."""
    reader, at = json.JSONDecoder(), 0
    while at < len(text):
        _, at = reader.raw_decode(text, at)
        while at < len(text) and text[at].isspace():
            at += 1


def _check_promql(text: str, folder: Path, place: str) -> None:
    tool = shutil.which("promtool")
    if tool is None:
        assert text.count("(") == text.count(")"), place
        return
    rules = {"groups": [{"name": "page", "rules": [{"record": "page:expr", "expr": text}]}]}
    path = folder / "rules.yaml"
    path.write_text(json.dumps(rules))
    done = subprocess.run([tool, "check", "rules", str(path)], capture_output=True, check=False)
    assert done.returncode == 0, f"{place}: {done.stdout.decode()}{done.stderr.decode()}"


def test_the_environment_of_a_page_is_clean() -> None:
    assert not [n for n in os.environ if n.startswith("TIDEMILL_") and "_TEST_" not in n]
