"""One file a peer: what it installs, how it starts, what it is asked and what it answers."""

from __future__ import annotations

import importlib

from benchmarks.serving.peer import Peer

#: In the order of measuring: ours, the limits, what one writes by hand, the frameworks.
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
    """The peers of those names; SystemExit with the names there are for any other."""
    unknown = set(names or ()) - set(NAMES)
    if unknown:
        raise SystemExit(
            f"There is no peer {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}."
        )
    expected = NAMES if names is None else names
    modules = [importlib.import_module(f"{__name__}.{n.replace('-', '_')}") for n in expected]
    return [module.PEER for module in modules]
