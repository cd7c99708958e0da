"""Generate docs/reference from the code, and the index of decision records.

python scripts/reference.py          writes
python scripts/reference.py --check  fails if a page is out of date
"""

from __future__ import annotations

import sys
from pathlib import Path

from reference_pages import architecture, bundle, commands, control, data_plane, decisions, metrics

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
PAGES = {
    "cli.md": commands.page,
    "settings.md": control.settings_page,
    "routes.md": control.routes_page,
    "predictions.md": data_plane.page,
    "metrics.md": metrics.page,
    "bundle.md": bundle.page,
    "../decisions/index.md": decisions.page,
    "../architecture.svg": architecture.picture,
}


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    stale = []
    for name, page in PAGES.items():
        path, text = FOLDER / name, page()
        if not path.is_file() or path.read_text() != text:
            stale.append(name)
        if "--check" not in sys.argv:
            path.write_text(text)
    if stale and "--check" in sys.argv:
        sys.exit(f"Out of date: {', '.join(stale)}. Run: python scripts/reference.py")


if __name__ == "__main__":
    main()
