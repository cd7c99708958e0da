"""The diagram in ARCHITECTURE.md: layers from top to bottom, subjects from left to right."""

from __future__ import annotations

from html import escape
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "src" / "tidemill"

SUBJECTS = (
    "data",
    "training",
    "promotion",
    "serving",
    "recording",
    "monitoring",
    "retraining",
    "replay",
    "operations",
)

#: The subject of each folder of a layer. A test fails if a folder is missing here.
FOLDERS: dict[str, dict[str, str]] = {
    "loop": {
        "training": "training",
        "promotion": "promotion",
        "sync": "serving",
        "ingest": "recording",
        "monitoring": "monitoring",
        "retraining": "retraining",
        "replay": "replay",
        "operations": "operations",
    },
    "steps": {
        "data": "data",
        "search": "training",
        "evaluation": "training",
        "export": "training",
        "convert": "training",
        "gate": "promotion",
        "drift": "monitoring",
        "decay": "monitoring",
        "retraining": "retraining",
        "replay": "replay",
        "plots": "operations",
    },
    "stores": {
        "mlflow": "training",
        "predictions": "recording",
        "monitoring": "monitoring",
        "retraining": "retraining",
        "jobs": "operations",
        "database": "operations",
    },
}
SERVING = (
    "server",
    "http",
    "protocols",
    "codec",
    "model",
    "sandbox",
    "journal",
    "shelf",
    "telemetry",
)

_LEFT, _TOP, _WIDTH, _CELL = 130, 70, 112, 92
_TEXT = 'font-family="Helvetica, Arial, sans-serif"'


def folders(layer: str) -> set[str]:
    """Return the packages inside a layer."""
    return {path.parent.name for path in (PACKAGE / layer).glob("*/__init__.py")}


def picture() -> str:
    """Return the diagram as SVG."""
    right = _LEFT + _WIDTH * len(SUBJECTS)
    parts = [
        _text(_LEFT + i * _WIDTH + 8, _TOP - 30, name, bold=True) for i, name in enumerate(SUBJECTS)
    ]
    top = _TOP - 16
    parts.append(_bar(top, 44, "faces", "api   console   cli   worker", "#e3edf7"))
    top += 52
    parts.append(_bar(top, 30, "wiring", "platform.py", "#e3edf7"))
    top += 38
    for layer, note in (("loop", "use cases"), ("steps", "pure functions"), ("stores", "state")):
        parts.append(_row(top, layer, note))
        top += _CELL + 8
    parts.append(_bar(top, 44, "serving", "   ".join(SERVING), "#dff0e4", "the data plane"))
    top += 52
    parts.append(
        _bar(
            top,
            30,
            "base",
            "project  policies  settings  sources  bundle  signature  errors",
            "#f0f0f0",
        )
    )
    width, height = right + 16, top + 46
    note = _text(
        _LEFT, height - 8, "Imports point down. A subject has the same name in every layer."
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"',
            'aria-label="Layers of Tidemill from top to bottom, subjects from left to right">',
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
            *parts,
            note,
            "</svg>\n",
        ]
    )


def _row(top: int, layer: str, note: str) -> str:
    parts = [_text(12, top + 22, layer, bold=True), _text(12, top + 40, note, size=11)]
    for i, subject in enumerate(SUBJECTS):
        names = [name for name, owner in FOLDERS[layer].items() if owner == subject]
        left = _LEFT + i * _WIDTH
        fill = "#fdf3dc" if names else "#fafafa"
        parts.append(_box(left, top, _WIDTH - 6, _CELL, fill))
        parts += [_text(left + 8, top + 20 + 17 * n, f"{name}/") for n, name in enumerate(names)]
    return "\n".join(parts)


def _bar(top: int, height: int, name: str, content: str, fill: str, note: str = "") -> str:
    width = _WIDTH * len(SUBJECTS) - 6
    parts = [
        _text(12, top + 20, name, bold=True),
        _box(_LEFT, top, width, height, fill),
        _text(_LEFT + 12, top + height // 2 + 5, content),
    ]
    if note:
        parts.append(_text(12, top + 37, note, size=11))
    return "\n".join(parts)


def _box(x: int, y: int, width: int, height: int, fill: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" fill="{fill}"/>'


def _text(x: int, y: int, content: str, *, bold: bool = False, size: int = 13) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x}" y="{y}" {_TEXT} font-size="{size}" fill="#222222"{weight} '
        f'xml:space="preserve">{escape(content)}</text>'
    )
