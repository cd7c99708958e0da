"""What `tidemill up` does when nothing is registered: train, ask the gate, put it on the shelf.

python -m tidemill.cli.local.first_model gallery:breast_cancer
"""

from __future__ import annotations

import sys

from tidemill.cli import command_help, terminal
from tidemill.cli.commands.models import gate_version, open_registry
from tidemill.cli.commands.train import show, train_project
from tidemill.cli.context import find_project, open_settings, start_logs
from tidemill.errors import TidemillError
from tidemill.settings import Settings


def main(reference: str | None) -> None:
    """Train a project and make the result champion, unless models are registered already.

    The shelf is brought up to date here and now, where everything that takes is loaded already, so
    that serving need not wait for the sync process to start.
    """
    from tidemill.loop.sync.shelf_sync import sync_once

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
    terminal.out.print(f"Nothing is registered: training [bold]{project.name}[/] ({reference}).")
    result = train_project(project, settings)
    show(result)
    verdict = gate_version(settings, project.name, project, version=result.version)
    terminal.out.print(" ".join(verdict.reasons), markup=False)


if __name__ == "__main__":
    try:
        main(next(iter(sys.argv[1:]), None))
    except TidemillError as error:
        sys.exit(terminal.report_error(error))
    except KeyboardInterrupt:
        sys.exit(command_help.Exit.INTERRUPTED)
