"""The `tidemill` command. The slim installation only has `tidemill serve`."""

from __future__ import annotations

import importlib.util
import os
import sys

from tidemill.processes import keep_files_private

#: Packages of the extra `standard`; one alone may be installed for another reason.
CONTROL_PLANE_PACKAGES = ("typer", "structlog", "mlflow")


def main() -> None:
    """Run the command line, or only `serve` if the control plane's packages are missing."""
    keep_files_private()
    # OpenMP's threads spin while they wait, which makes a fit ten times slower on a busy machine.
    # The variable is read once, when the first library that uses OpenMP is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if any(importlib.util.find_spec(name) is None for name in CONTROL_PLANE_PACKAGES):
        _serve_only()
    from tidemill.cli.app import run

    run()


def _serve_only() -> None:
    from tidemill.serving.__main__ import main as serve

    if sys.argv[1:2] != ["serve"]:
        sys.exit(
            "This is the slim installation: it only serves, with `tidemill serve --shelf DIR`.\n"
            "For everything else: pip install 'tidemill[standard]'"
        )
    del sys.argv[1]
    serve()
    sys.exit(0)


if __name__ == "__main__":
    main()
