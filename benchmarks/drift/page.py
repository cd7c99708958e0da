"""Render the report: the tables of the results within the text of notes.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

NOTES = Path(__file__).parent / "notes.md"

Rows = Sequence[Sequence[str]]


def markdown(results: dict[str, Any]) -> str:
    """Render the page; the tables of each heading of notes.md follow its text."""
    parts = []
    for part in NOTES.read_text().split("\n## "):
        heading = part.splitlines()[0].strip().lower()
        parts.append(part.rstrip() + "\n")
        tables = "".join(tables_of(results) for tables_of in TABLES.get(heading, ()))
        missing = heading in TABLES and not tables.strip()
        parts[-1] += "\n**Not measured in this run.**\n" if missing else tables
    return (
        parts[0]
        + _about(results)
        + _targets(results)
        + "".join(f"\n## {part}" for part in parts[1:])
    )


def _about(results: dict[str, Any]) -> str:
    about = results.get("about", {})
    peers = ", ".join(f"{name} {version}" for name, version in about.get("peers", {}).items())
    share = _counts(about.get("scale"), about.get("share", 1.0))
    return (
        f"\nMeasured on {about.get('date')}, Python {about.get('python')}, "
        f"{about.get('machine')}; peers: {peers}.{share} {about.get('note', '')}".rstrip()
        + "\n"
    )


def _targets(results: dict[str, Any]) -> str:
    """Render the targets and whether they were met."""
    rows: list[list[str]] = []
    for row in results.get("alarms", ()):
        share = row["alarms"]["Tidemill"]
        rows.append(
            [
                f"false alarms at most 1%: {row['table']}",
                f"{_range(share)} of {share['windows']:,} windows",
                _met(share["rate"] <= 0.01),
            ]
        )
    for row in (results[key] for key in results if key.startswith("power: ten")):
        share = row["alarms"]["Tidemill"][list(row["shifts"]).index(0.25)]
        what = f"power 95% at a quarter of a standard deviation: {row['population']}"
        rows.append([what, f"{_range(share)} of {share['windows']:,}", _met(share["rate"] >= 0.95)])
    for row in results.get("speed", ()):
        if row["rows"] == 1_000_000:
            reached = _met(row["seconds"] < 3)
            rows.append(["1,000,000 rows x 30 features in 3 s", _seconds(row), reached])
    wide = [row["bytes"] / 1e6 for row in results.get("sizes", ()) if row["features"] == 100]
    rows += [["profile of 100 features in 1 MB", f"{s:.2f} MB", _met(s < 1)] for s in wide]
    return "\n" + _table(["target", "measured", ""], rows) if rows else ""


def _seconds(row: dict[str, Any]) -> str:
    cpu = f" ({row['cpu']:.2f} s of CPU)" if "cpu" in row else ""
    return f"{row['seconds']:.2f} s{cpu}"


def _met(reached: bool) -> str:
    return "met" if reached else "**missed**"


def _counts(scale: float | None, share: float) -> str:
    if scale != 1:
        return " This was a trial run with too few windows for conclusions."
    if share < 1:
        return (
            f" All but the first table use {share:.0%} of the windows of a full run; each table "
            "states its number."
        )
    return ""


def _alarms(results: dict[str, Any]) -> str:
    text = ""
    titles = {
        "alarms": "Windows of up to 500 distinct rows",
        "alarms_small": "Windows of 60 rows",
        "alarms_repeats": "Windows of 500 rows drawn with replacement",
    }
    for key, title in titles.items():
        rows = results.get(key)
        if rows:
            names = list(rows[0]["alarms"])
            head = ["data set", "features", "rows", *names]
            body = [
                [
                    row["table"],
                    str(row["features"]),
                    str(row["rows"]),
                    *(_range(row["alarms"].get(name)) for name in names),
                ]
                for row in rows
            ]
            text += f"\n**{title}**, {rows[0]['windows']:,} for each data set.\n\n"
            text += _table(head, body)
    return text


def _power(results: dict[str, Any]) -> str:
    text = ""
    for key in (key for key in results if key.startswith("power: ")):
        row = results[key]
        head = [f"shift ({row['population']})", *(f"{shift:g}" for shift in row["shifts"])]
        body = [
            [name, *(_percent(share["rate"]) for share in shares)]
            for name, shares in row["alarms"].items()
        ]
        text += "\n" + _table(head, body) + f"\n{row['windows']:,} windows per cell.\n"
    return text


def _changes(results: dict[str, Any]) -> str:
    rows = results.get("changes")
    if not rows:
        return ""
    names = list(rows[0]["alarms"])
    body = [
        [row["change"], *(_percent(row["alarms"][name]["rate"]) for name in names)] for row in rows
    ]
    return "\n" + _table(["change", *names], body)


def _decay(results: dict[str, Any]) -> str:
    rows = results.get("decay")
    if not rows:
        return ""
    head = ["data set", "metric", "labelled rows", "unchanged", "5%", "10%", "20%"]
    body = [
        [
            row["table"],
            row["metric"],
            str(row["rows"]),
            _range(row["hurt"]["0.0"]),
            *(_percent(row["hurt"][share]["rate"]) for share in ("0.05", "0.1", "0.2")),
        ]
        for row in rows
    ]
    return "\n" + _table(head, body)


def _verdicts(results: dict[str, Any]) -> str:
    rows = results.get("verdicts")
    if not rows:
        return ""
    states = ["steady", "data moved", "model degraded", "data moved and model degraded"]
    body = [
        [
            row["table"],
            row["change"],
            *(
                f"{row['labels'].get(state, 0)} / {row['confidences'].get(state, 0)}"
                for state in states
            ),
        ]
        for row in rows
    ]
    return "\n" + _table(["data set", "change", *states], body)


def _estimates(results: dict[str, Any]) -> str:
    rows = results.get("estimates")
    if not rows:
        return ""
    head = [
        "data set",
        "windows",
        "calibrated",
        "raw confidences",
        "held-out accuracy",
        "true value within bounds",
        "reported as degraded",
    ]
    body = [
        [
            row["table"],
            row["window"],
            *(f"{row[name]:.4f}" for name in ("calibrated", "raw", "held_out")),
            _percent(row["inside"]),
            _percent(row["hurt"]),
        ]
        for row in rows
    ]
    return "\n" + _table(head, body)


def _streams(results: dict[str, Any]) -> str:
    rows = results.get("streams")
    if not rows:
        return ""
    head = [
        "data set",
        "detector",
        "false alarms in unchanged rows",
        "changes detected",
        "median delay",
    ]
    body = [
        [
            row["table"],
            row["detector"],
            f"{row['false_alarms']} in {row['calm_rows']:,}",
            f"{row['noticed']} of {row['streams']}",
            "" if row["median_delay"] is None else f"{row['median_delay']:,.0f} rows",
        ]
        for row in rows
    ]
    return "\n" + _table(head, body)


def _speed(results: dict[str, Any]) -> str:
    body = [
        [f"{row['rows']:,}", str(row["features"]), _seconds(row)]
        for row in results.get("speed", ())
    ]
    if not body and not results.get("sizes"):
        return ""
    text = "\n" + _table(["rows", "features", "check"], body)
    sizes = [
        [str(row["features"]), f"{row['bytes'] / 1e6:.2f} MB"] for row in results.get("sizes", ())
    ]
    return text + "\n" + _table(["features", "profile.json"], sizes)


TABLES = {
    "false alarms": (_alarms,),
    "power": (_power, _changes),
    "data moved or model degraded": (_verdicts,),
    "decay on labelled rows": (_decay,),
    "accuracy without labels": (_estimates,),
    "detectors on streams": (_streams,),
    "speed and size": (_speed,),
}


def _table(head: Sequence[str], body: Rows) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _percent(share: float) -> str:
    return f"{share:.1%}" if 0 < share < 1 else f"{share:.0%}"


def _range(share: dict[str, float] | None) -> str:
    if share is None:
        return ""
    return f"{_percent(share['rate'])} ({share['low']:.1%} to {share['high']:.1%})"
