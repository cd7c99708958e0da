"""The `tidemill` command. On a slim installation it serves a shelf and does nothing else."""

from __future__ import annotations

import importlib.util
import os
import sys

#: Of the extra `standard`; a single one of them may be there for another package's sake.
NEEDED = ("typer", "structlog", "mlflow")


def main() -> None:
    """Run the command line; without the control plane's packages only `serve` is there."""
    # OpenMP's threads spin while they wait for each other: on a busy machine a fit then takes ten
    # times as long. It reads this once, when the first library that uses it is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if any(importlib.util.find_spec(name) is None for name in NEEDED):
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
