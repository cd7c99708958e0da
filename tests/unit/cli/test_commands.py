"""Every command: its group, help, exit codes, completion and output."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tidemill.cli import app as cli
from tidemill.cli import command_help, terminal
from tidemill.errors import (
    GateError,
    InputError,
    NotFoundError,
    SettingsError,
    TidemillError,
    UnavailableError,
)
from tidemill.platform import Platform
from tidemill.settings import Settings
from tidemill.stores.jobs.jobs import NewJob

#: They run until Ctrl-C and print no JSON.
SERVERS = {"up", "serve", "api"}
ROOT = cli.command_tree()


def walk(group: Any = ROOT, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from walk(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


COMMANDS = dict(walk())


def tidemill(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, **env}
    return subprocess.run(
        [sys.executable, "-m", "tidemill", *words],
        env=given, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def test_the_commands_are_grouped_by_the_loop_in_its_order() -> None:
    panels = [command.rich_help_panel for command in ROOT.commands.values()]
    assert list(dict.fromkeys(panels)) == [
        cli.GET_STARTED.title,
        cli.TRAIN.title,
        cli.SERVE.title,
        cli.MONITOR.title,
        cli.OPERATE.title,
    ]
    assert len(COMMANDS) > 25


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_documents_its_purpose_examples_and_exit_codes(path: str) -> None:
    command = COMMANDS[path]
    words, _, examples = (command.help or "").partition("Examples:")
    summary = " ".join(words.split("\n\n")[0].split())
    assert summary.rstrip().endswith("."), "a summary of one paragraph"
    assert re.search(rf"^ *(\S+=\S+ )?tidemill {path}\b", examples, re.M), "an example of itself"
    assert "Exit codes: 0 done; 1 " in command.epilog
    flags = {name for parameter in command.params for name in parameter.opts}
    assert ("--json" in flags) == (path not in SERVERS)
    assert ("--json prints" in command.epilog) == ("--json" in flags)
    undescribed = [p.name for p in command.params if not p.help]
    assert undescribed == []


@pytest.mark.parametrize("path", COMMANDS)
def test_the_examples_in_help_parse(path: str) -> None:
    import shlex

    examples = (COMMANDS[path].help or "").partition("Examples:")[2].strip().splitlines()
    for line in filter(None, map(str.strip, examples)):
        words = shlex.split(line)
        words = words[words.index("tidemill") + 1 + len(path.split()) :]
        words = ["5" if word.startswith("$(") else word for word in words]
        files = [word for word in words if word.endswith(".tar")]  # `restore` wants it to exist
        words = [__file__ if word in files else word for word in words]
        COMMANDS[path].make_context(path, words)


def test_every_error_says_what_to_do_next(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in (InputError, NotFoundError, SettingsError, UnavailableError, TidemillError):
        code = terminal.report_error(kind("Something is wrong.", field="rows"))
        said = capsys.readouterr().err
        assert code == command_help.Exit.FAILED
        assert "field: rows" in said
        assert "next: " in said
    assert terminal.report_error(GateError("Closed.", remedy="Wait.")) == command_help.Exit.GATE
    assert "next: Wait." in capsys.readouterr().err


def test_an_error_goes_to_stderr_and_prints_no_json(home: Path) -> None:
    done = tidemill("models", "nobody", "--json", "--home", str(home))
    assert done.returncode == command_help.Exit.FAILED
    assert done.stdout == ""
    assert "nobody" in done.stderr
    assert "next: " in done.stderr
    assert "Traceback" not in done.stderr
    wrong = tidemill("train", "--trials", "none")
    assert wrong.returncode == command_help.Exit.USAGE
    assert "--trials" in wrong.stderr


def test_output_respects_no_color_narrow_terminals_and_pipes(home: Path) -> None:
    platform = Platform.open(Settings(home=home))
    platform.submit(NewJob("train", "a-model-with-quite-a-long-name"))
    platform.close()
    narrow = tidemill("jobs", "--home", str(home), COLUMNS="40", NO_COLOR="1")
    assert narrow.returncode == 0
    assert "\x1b" not in narrow.stdout
    assert max(map(len, narrow.stdout.splitlines())) <= 40
    assert "\x1b" not in tidemill("--help", NO_COLOR="1").stdout
    piped = f"{sys.executable} -m tidemill jobs --json --home {home} | head -c 1"
    cut = subprocess.run(["bash", "-c", piped], capture_output=True, text=True, check=False)
    assert cut.stdout == "["
    assert "Traceback" not in cut.stderr


def test_ctrl_c_exits_with_130_and_no_traceback(home: Path) -> None:
    platform = Platform.open(Settings(home=home))
    platform.submit(NewJob("train", "flowers"))
    platform.close()
    with subprocess.Popen(
        [sys.executable, "-m", "tidemill", "jobs", "--watch", "--home", str(home)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "FORCE_COLOR": "1"},
    ) as watching:  # fmt: skip
        try:
            assert watching.stdout is not None
            while "flowers" not in watching.stdout.readline():
                assert watching.poll() is None
            watching.send_signal(signal.SIGINT)
            _, said = watching.communicate(timeout=300)
        finally:
            watching.kill()
    assert watching.returncode == command_help.Exit.INTERRUPTED
    assert "Traceback" not in said


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")
def test_bash_completes_commands_after_evaluating_the_script(tmp_path: Path) -> None:
    program = tmp_path / "tidemill"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tidemill "$@"\n')
    program.chmod(0o755)
    script = """
        eval "$(_TIDEMILL_COMPLETE=source_bash tidemill)"
        COMP_WORDS=(tidemill ro) COMP_CWORD=1
        "$(complete -p tidemill | sed 's/.*-F \\([^ ]*\\).*/\\1/')" tidemill ro tidemill
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], env={**os.environ, "PATH": path}, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
    assert done.stdout.split() == ["rollback"], done.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom tidemill.cli.app import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'pandas', 'mlflow', 'celery', 'sqlalchemy', 'numpy', 'pydantic'}\n"
        "print('loaded', heavy & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Get started" in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded set()"


def test_the_command_list_shows_the_first_sentence_of_each_help() -> None:
    for entry in cli.COMMANDS:
        words = (ROOT.commands[entry.name].help or "").split("\n\n")[0]
        assert " ".join(words.split()) == entry.summary
