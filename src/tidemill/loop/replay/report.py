"""What a replay came to, as JSON and as one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tidemill.loop.replay.baselines import Baseline
from tidemill.loop.replay.player import ReplayPace, ReplayRecord, answers_of
from tidemill.loop.replay.setup import ReplaySetup
from tidemill.project import Task
from tidemill.steps.plots.style import to_png
from tidemill.steps.plots.timelines import plot_replay
from tidemill.steps.replay.comparison import StrategyResult, comparison_sentence, strategy_result

JSON_FILE, HTML_FILE = "replay.json", "replay.html"


@dataclass(frozen=True)
class ReplayReport:
    """A replay's result: the courses, the loop's first, and the document for JSON.

    `trouble` is what ended the replay early, where that was an error.
    """

    courses: tuple[StrategyResult, ...]
    document: dict[str, Any]
    page: str
    trouble: Exception | None = None

    @property
    def sentence(self) -> str:
        return str(self.document["verdict"])

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write both files; gives their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = folder / JSON_FILE, folder / HTML_FILE
        paths[0].write_text(json.dumps(self.document, indent=1), encoding="utf-8")
        paths[1].write_text(self.page, encoding="utf-8")
        return paths


def make_report(
    record: ReplayRecord,
    staged: ReplaySetup,
    pace: ReplayPace,
    alternatives: Sequence[Baseline],
    *,
    source: str,
    trouble: Exception | None = None,
) -> ReplayReport:
    """Compare the loop with the alternatives on the rows that were answered.

    Args:
        source: What was played, for people.
    """
    outputs, answered = answers_of(record, staged)
    rows = len(answered)
    truth = staged.truth[staged.warmup : staged.warmup + rows]
    task: Task = "regression" if staged.truth.dtype.kind == "f" else "classification"
    courses = [
        strategy_result(
            "the loop", task, truth, outputs, answered,
            retrainings=len(record.retrainings), seconds=record.seconds,
        )
    ]  # fmt: skip
    courses += [
        strategy_result(
            a.name, task, truth, a.outputs, answered,
            retrainings=len(a.retrainings), seconds=a.seconds,
        )
        for a in alternatives
    ]  # fmt: skip
    sentence = comparison_sentence(courses, task)
    document = {
        "source": source,
        "model": staged.project.name,
        "task": task,
        "verdict": sentence,
        "interrupted": record.interrupted,
        "stopped": record.stopped,
        "warmup": staged.warmup,
        "rows": rows,
        "pace": vars(pace),
        "predictions_sent": record.sent,
        "predictions_stored": record.stored,
        "labels_sent": record.labels,
        "labels_stored": record.joined,
        "rows_refused": record.refused,
        "requests_failed": record.failed,
        "seconds": round(record.wall, 1),
        "ways": [_way(course) for course in courses],
        "events": [vars(event) for event in record.events],
        "versions": _versions(record),
    }
    triggers = [event.row for event in record.events if event.kind == "trigger"]
    swaps = [event.row for event in record.events if event.kind == "swap"]
    figure = plot_replay(
        courses, rows, task, triggers=triggers, swaps=swaps, title=staged.project.name
    )
    return ReplayReport(tuple(courses), document, _page(document, to_png(figure)), trouble)


def _way(course: StrategyResult) -> dict[str, Any]:
    return {
        "name": course.name,
        "loss": _finite(course.loss),
        "metrics": {name: _finite(value) for name, value in course.metrics.items()},
        "retrainings": course.retrainings,
        "retraining_seconds": round(course.seconds, 2),
        "over_time": [_finite(value) for value in course.over_time.tolist()],
    }


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _versions(record: ReplayRecord) -> dict[str, int]:
    """How many rows each version answered."""
    names, counts = np.unique(np.array(record.versions, dtype=str), return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))


def _page(document: dict[str, Any], picture: bytes) -> str:
    image = base64.b64encode(picture).decode()
    shown = list(document["ways"][0]["metrics"])[:4]
    heads = "".join(f"<th>{name}</th>" for name in ["", "loss", *shown, "retrainings", "seconds"])
    rows = "".join(_row(way, shown) for way in document["ways"])
    events = "".join(
        f"<tr><td>{event['row']:,}</td><td>{event['kind']}</td>"
        f"<td>{html.escape(event['text'])}</td></tr>"
        for event in document["events"]
    )
    facts = (
        f"{document['rows']:,} live rows after a warm-up of {document['warmup']:,}; "
        f"{document['predictions_sent']:,} predictions and {document['labels_sent']:,} labels sent "
        f"in {document['seconds']:,.0f} s, labels {document['pace']['delay']:,} rows late; "
        f"{document['rows_refused']:,} rows refused, {document['requests_failed']:,} requests "
        "failed and asked again."
    )
    why = html.escape(document["stopped"] or "")
    cut = f"<p><b>Stopped before the end.</b> {why}</p>" if document["interrupted"] else ""
    return _PAGE.format(
        title=html.escape(f"Replay of {document['source']}"),
        verdict=html.escape(document["verdict"]),
        cut=cut,
        facts=html.escape(facts),
        image=image,
        heads=heads,
        rows=rows,
        events=events or '<tr><td colspan="3">Nothing happened.</td></tr>',
    )


def _row(way: dict[str, Any], shown: Sequence[str]) -> str:
    values = [way["loss"], *(way["metrics"].get(name) for name in shown)]
    cells = "".join(f"<td>{'' if v is None else format(v, '.4g')}</td>" for v in values)
    tail = f"<td>{way['retrainings']}</td><td>{way['retraining_seconds']:.1f}</td>"
    return f"<tr><th>{html.escape(way['name'])}</th>{cells}{tail}</tr>"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; color: #222; }}
table {{ border-collapse: collapse; margin: 1rem 0; }}
td, th {{ border-bottom: 1px solid #ddd; padding: .3rem .7rem; text-align: left; }}
img {{ max-width: 100%; }} .verdict {{ font-size: 1.15rem; }}
</style></head><body>
<h1>{title}</h1>
<p class="verdict">{verdict}</p>{cut}
<p>{facts}</p>
<img alt="Loss over time of each way, with triggers and new champions" \
src="data:image/png;base64,{image}">
<table><tr>{heads}</tr>{rows}</table>
<p>The loss is the share of wrong answers, or the mean absolute error. A row counts for all ways or
for none. Seconds are those spent on retraining.</p>
<h2>What happened</h2>
<table><tr><th>after rows</th><th></th><th></th></tr>{events}</table>
</body></html>
"""
