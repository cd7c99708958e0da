"""One module per peer: packages, command line, and request and response formats."""

from __future__ import annotations

import importlib

from benchmarks.serving.peer import Peer

#: In order of measurement: Tidemill, the lower bounds, hand-written apps, frameworks.
NAMES = (
    "tidemill",
    "tidemill-unrecorded",
    "limit-asyncio",
    "limit-asgi",
    "fastapi",
    "flask",
    "mlserver",
    "litserve",
    "vetiver",
    "bentoml",
    "mlflow-tensor",
    "mlflow-frame",
)


def load_peers(names: tuple[str, ...] | None = None) -> list[Peer]:
    """Load the named peers, or all of them.

    Raises:
        SystemExit: A name is unknown; the message lists the known ones.
    """
    unknown = set(names or ()) - set(NAMES)
    if unknown:
        raise SystemExit(
            f"Unknown peer {', '.join(sorted(unknown))}; known peers: {', '.join(NAMES)}."
        )
    expected = NAMES if names is None else names
    modules = [importlib.import_module(f"{__name__}.{n.replace('-', '_')}") for n in expected]
    return [module.PEER for module in modules]
