"""Train, promote and shelve a first model; a process of `tidemill up` and of the deployments.

python -m tidemill.cli.local.first_model gallery:breast_cancer
"""

from __future__ import annotations

import sys

from tidemill.cli import command_help, terminal
from tidemill.cli.context import find_project, open_settings, start_logs
from tidemill.cli.control_plane import open_registry
from tidemill.cli.gate import gate_version
from tidemill.cli.training import show_result, train_project
from tidemill.errors import TidemillError
from tidemill.loop.sync.shelf_sync import sync_once
from tidemill.settings import Settings


def main(reference: str | None) -> None:
    """Train a project and promote the result, unless models are registered already.

    The shelf is synced here too: this process has loaded all it takes, so that serving does not
    wait for the sync process to start.
    """
    settings = open_settings()
    start_logs(settings, "train")
    registry = open_registry(settings)
    if reference and not registry.models():
        _train(reference, settings)
    report = sync_once(registry, settings.shelf, "all")
    for name, problem in report.state.problems.items():
        terminal.out.print(f"{name} cannot be served: {problem}", markup=False)


def _train(reference: str, settings: Settings) -> None:
    project = find_project(reference, settings)
    terminal.out.print(f"No model is registered: training [bold]{project.name}[/] ({reference}).")
    result = train_project(project, settings)
    show_result(result)
    verdict = gate_version(settings, project.name, project, version=result.version)
    terminal.out.print(" ".join(verdict.reasons), markup=False)


if __name__ == "__main__":
    try:
        main(next(iter(sys.argv[1:]), None))
    except TidemillError as error:
        sys.exit(terminal.report_error(error))
    except KeyboardInterrupt:
        sys.exit(command_help.Exit.INTERRUPTED)
