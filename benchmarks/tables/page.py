"""The report: one row per table, and a summary per peer."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.tables.peers import PEERS, TOOLS
from benchmarks.tables.score import METRIC, SAMPLES

_NOTES = Path(__file__).parent / "notes.md"


def markdown(results: dict[str, Any], seconds: int) -> str:
    head = "| table | rows | columns | metric | " + " | ".join(TOOLS) + " | best of Tidemill |"
    lines = [_NOTES.read_text().format(seconds=seconds, samples=SAMPLES), "", head]
    lines.append("|" + "---|" * (len(TOOLS) + 5))
    lines += [_row(name, entry) for name, entry in results.items()]
    lines += ["", *_summary(results), "", *_cost(results)]
    return "\n".join(lines) + "\n"


def _row(name: str, entry: dict[str, Any]) -> str:
    facts, tools = entry["facts"], entry["tools"]
    cells = [name, f"{facts['train_rows']:,}", str(facts["columns"]), METRIC[facts["task"]]]
    cells += [_cell(tools.get(tool)) for tool in TOOLS]
    cells.append(str(tools.get("tidemill", {}).get("notes", {}).get("best", "")))
    return "| " + " | ".join(cells) + " |"


def _cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    if "error" in found:
        return "failed"
    low, high = found["interval"]
    text = f"{found['score']:.3f} ± {(high - low) / 2:.3f}"
    verdict = _verdict(found)
    return text if verdict == "equal" else f"**{text}** {'▼' if verdict == 'won' else '▲'}"


def _verdict(found: dict[str, Any]) -> str:
    _, low, high = found.get("difference", (0.0, -1.0, 1.0))
    return "won" if low > 0 else "lost" if high < 0 else "equal"


def _summary(results: dict[str, Any]) -> list[str]:
    lines = [
        "| against | tables | won by more than noise | lost by more than noise | "
        "median difference | mean difference |",
        "|---|---|---|---|---|---|",
    ]
    for peer in PEERS:
        runs = [
            e["tools"][peer] for e in results.values() if "difference" in e["tools"].get(peer, {})
        ]
        if not runs:
            continue
        gaps = [run["difference"][0] for run in runs]
        won, lost = (sum(_verdict(r) == v for r in runs) for v in ("won", "lost"))
        mean = sum(gaps) / len(gaps)
        lines.append(
            f"| {peer} | {len(runs)} | {won} | {lost} | {median(gaps):+.4f} | {mean:+.4f} |"
        )
    return lines


def _cost(results: dict[str, Any]) -> list[str]:
    lines = ["| tool | median time, s | longest, s | median CPU, s | highest memory, MB |"]
    lines.append("|---|---|---|---|---|")
    for tool in TOOLS:
        runs = [e["tools"][tool] for e in results.values() if "score" in e["tools"].get(tool, {})]
        if runs:
            seconds, cpu = [r["seconds"] for r in runs], [r["cpu"] for r in runs]
            highest = max(r["memory"] for r in runs)
            lines.append(
                f"| {tool} | {median(seconds):.0f} | {max(seconds):.0f} | {median(cpu):.0f} "
                f"| {highest:,.0f} |"
            )
    return lines
