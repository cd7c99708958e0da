"""`python -m benchmarks.tables --tables DIR`: default training on public tables, with peers.

Every tool gets the same CSV files of training and test rows and the same budget; each runs in a
process of its own, one after the other. Results are saved after each run, and a second call
continues where the first ended.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.tables import score
from benchmarks.tables.data import Table, available, write_split
from benchmarks.tables.measure import run_tool
from benchmarks.tables.page import markdown
from benchmarks.tables.peers import TOOLS, install

ROOT = Path(__file__).parent.parent.parent
CACHE = ROOT / ".bench" / "tables"


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    saved = options.work / "results.json"
    results: dict[str, Any] = json.loads(saved.read_text()) if saved.is_file() else {}
    chosen = [t for t in available(options.tables) if not options.only or t.name in options.only]
    for table in chosen:
        for tool in options.tools:
            if table.name in results and tool in results[table.name]["tools"] and not options.again:
                continue
            measure(table, tool, options, results)
            saved.write_text(json.dumps(results, indent=1))
    compare(results, options.work)
    saved.write_text(json.dumps(results, indent=1))
    text = markdown(results, options.seconds)
    (options.page or options.work / "tables.md").write_text(text)
    print(text)
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.tables", description=__doc__)
    parser.add_argument("--tables", type=Path, help="folder with the CSV files")
    parser.add_argument("--seconds", type=int, default=60, help="budget of a tool for one table")
    parser.add_argument("--tools", nargs="*", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--only", nargs="*", default=[], help="names of tables")
    parser.add_argument("--again", action="store_true", help="repeat runs that are saved")
    parser.add_argument("--work", type=Path, default=CACHE, help="files and results")
    parser.add_argument("--peers", type=Path, default=CACHE / "peers", help="their environment")
    parser.add_argument("--page", type=Path, help="write the report here, as Markdown")
    return parser.parse_args(arguments)


def measure(table: Table, tool: str, options: argparse.Namespace, results: dict[str, Any]) -> None:
    """Run a tool on a table, and add its result and score."""
    folder = options.work / table.name
    facts = write_split(table, options.tables, folder)
    python = sys.executable if tool == "tidemill" else install(options.peers)
    found = run_tool(tool, python, folder, options.seconds)
    if "error" not in found:
        scored = score.load(facts, folder, tool)
        found["score"], found["interval"] = scored.value(), score.interval(scored)
    entry = results.setdefault(table.name, {"facts": facts, "tools": {}})
    entry["tools"][tool] = found
    shown = found.get("error") or f"{found['score']:.4f}"
    print(f"{table.name} {tool}: {shown} in {found['seconds']:.0f} s", flush=True)


def compare(results: dict[str, Any], work: Path) -> None:
    """Add the paired differences between Tidemill and each peer."""
    for name, entry in results.items():
        ours = entry["tools"].get("tidemill", {})
        for tool, theirs in entry["tools"].items():
            if tool == "tidemill" or "score" not in ours or "score" not in theirs:
                continue
            facts, folder = entry["facts"], work / name
            mine, other = (score.load(facts, folder, t) for t in ("tidemill", tool))
            theirs["difference"] = score.difference(mine, other)


if __name__ == "__main__":
    raise SystemExit(main())
