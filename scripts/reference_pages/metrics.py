"""Every Prometheus metric of both planes, with its labels."""

from __future__ import annotations

import ast
import tempfile
from pathlib import Path
from typing import Any

from .tables import code, table


def page() -> str:
    """Render both tables: the data plane's from its metrics table, the other from its registry."""
    head = ["metric", "kind", "labels", "description"]
    lines = [
        "# Metrics",
        "",
        "All metrics use the Prometheus text format. `tidemill up` exposes both planes at"
        " `/metrics`.",
        "",
        "## Data plane",
        "",
        "At `/metrics` of each serving process, summed over all `--workers`.",
        "",
        *table(head, _data_plane()),
        "## Control plane",
        "",
        "At `/api/metrics`, and those named `tidemill_ingest_*` on",
        "`TIDEMILL_INGEST_METRICS_PORT` if ingest runs as a separate process.",
        "",
        *table(head, _control_plane()),
    ]
    return "\n".join(lines)


def _data_plane() -> list[list[str]]:
    import tidemill
    from tidemill.serving.telemetry.metrics import METRICS

    used = _uses(Path(tidemill.__file__).parent)
    # Both come from one observation of each request.
    labels = ["method", "route", "code"]
    used["http_requests_total"] = ("counter", labels)
    used["http_request_duration_seconds"] = ("histogram", labels)
    return [
        [f"`{name}`", used[name][0], ", ".join(map(code, used[name][1])), words]
        for name, (words, _) in METRICS.items()
    ]


def _uses(folder: Path) -> dict[str, tuple[str, list[str]]]:
    """Return the type and labels of each metric, parsed from the calls that create it."""
    found: dict[str, tuple[str, list[str]]] = {}
    for path in folder.rglob("*.py"):
        common: list[str] = []
        for node in _in_order(ast.parse(path.read_text())):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
                if getattr(node.targets[0], "id", "") == "labels":
                    common = [key.value for key in node.value.keys if isinstance(key, ast.Constant)]
            elif kind := _kind(node):
                names = [k.arg for k in node.keywords if k.arg]
                spread = any(k.arg is None for k in node.keywords)
                found[node.args[0].value] = (kind, [*(common if spread else ()), *names])
    return found


def _in_order(tree: ast.AST) -> list[Any]:
    nodes = [node for node in ast.walk(tree) if hasattr(node, "lineno")]
    return sorted(nodes, key=lambda node: (node.lineno, node.col_offset))


def _kind(node: Any) -> str | None:
    """Return counter, gauge or histogram if the node is a call that creates such a metric."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
        return None
    named = isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
    return node.func.attr if named and node.func.attr in ("counter", "gauge", "histogram") else None


def _control_plane() -> list[list[str]]:
    from tidemill.api.app import create_app
    from tidemill.platform import Platform
    from tidemill.settings import Settings

    with tempfile.TemporaryDirectory() as folder:
        platform = Platform.open(Settings(home=Path(folder)))
        registry = create_app(platform).state.tidemill.metrics.registry
        rows = [row for collector in registry._collector_to_names for row in _described(collector)]
        platform.close()
    return rows


def _described(collector: Any) -> list[list[str]]:
    rows = []
    for family in collector.describe():
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = getattr(family, "_labelnames", None) or getattr(collector, "_labelnames", ())
        rows.append(
            [f"`{name}`", family.type, ", ".join(map(code, labels)), f"{family.documentation}."]
        )
    return rows
