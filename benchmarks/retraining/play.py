"""`python -m benchmarks.retraining.play`: replay streams with `tidemill replay`.

Takes a few minutes per stream on idle cores; `--report` only rewrites the page.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.drift.peers import peer

HERE = Path(__file__).parent
CACHE = HERE.parent.parent / ".bench" / "retraining" / "replay"
DOCS = HERE.parent.parent / "docs" / "benchmarks"
STREAMS = (
    "abrupt-agrawal", "abrupt-sea", "abrupt-stagger", "gradual-agrawal", "gradual-sea",
    "recurring-stagger", "covariate-sea", "none-sea",
)  # fmt: skip
ROWS, WARMUP, EVERY = 12_000, 2_000, 1_000


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.retraining.play", description=__doc__)
    parser.add_argument("streams", nargs="*", default=STREAMS)
    parser.add_argument("--report", action="store_true", help="only rewrite the page")
    options = parser.parse_args()
    if not options.report:
        CACHE.mkdir(parents=True, exist_ok=True)
        _make()
        for name in options.streams:
            _play(name)
    (DOCS / "replay.md").write_text(_page())


def _make() -> None:
    river = peer("river")
    if river.python is None:
        raise RuntimeError(f"river cannot be installed: {river.why}")
    command = [str(river.python), str(HERE / "river_worker.py"), str(CACHE), str(ROWS), "1"]
    subprocess.run(command, check=True)


def _play(name: str) -> None:
    """Replay one stream in its own folder."""
    table, folder = CACHE / f"{name}-1.csv", CACHE / name
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "tidemill", "replay", str(table), "--project"]
    command += [str(HERE / "project.py"), "--warmup", str(WARMUP), "--every", str(EVERY)]
    subprocess.run([*command, "--output", str(folder)], check=True)


def _page() -> str:
    found = sorted(CACHE.glob("*/replay.json"))
    lines = [
        "| stream | the loop | left alone | schedule, all | schedule, 2,000 | rows | failed |",
        "|---|---|---|---|---|---|---|",
    ]
    events = []
    for path in found:
        document = json.loads(path.read_text())
        lines.append(_row(path.parent.name, document))
        events += [f"- **{path.parent.name}**: {_events(document)}"]
    text = (HERE / "replay_notes.md").read_text()
    return text.replace("{table}", "\n".join(lines)).replace("{events}", "\n".join(events))


def _row(name: str, document: dict[str, Any]) -> str:
    cells = [f"{way['loss']:.4f} ({way['retrainings']})" for way in document["ways"]]
    tail = [f"{document['rows']:,}", str(document["requests_failed"])]
    return "| " + " | ".join([name, *cells, *tail]) + " |"


def _events(document: dict[str, Any]) -> str:
    shown = [f"{e['row']:,} {e['kind']}: {e['text'].split('. ')[0]}" for e in document["events"]]
    return "; ".join(shown) or "no event"


if __name__ == "__main__":
    main()
