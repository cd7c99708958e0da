"""The result of a replay, as JSON and as a self-contained HTML page."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tidemill.loop.html_report import HtmlReport
from tidemill.loop.replay.baselines import Baseline
from tidemill.loop.replay.record import ReplayPace, ReplayRecord, answers_of
from tidemill.loop.replay.setup import ReplaySetup
from tidemill.project import Task
from tidemill.steps.plots.style import to_png
from tidemill.steps.plots.timelines import plot_replay
from tidemill.steps.replay.comparison import StrategyResult, comparison_sentence, strategy_result

JSON_FILE, HTML_FILE = "replay.json", "replay.html"


@dataclass(frozen=True)
class ReplayReport:
    """A replay's result.

    Attributes:
        strategies: The results of each strategy, the loop's first.
        document: The contents of `replay.json`.
        page: The HTML page.
        trouble: The error that ended the replay early, if one did.
    """

    strategies: tuple[StrategyResult, ...]
    document: dict[str, Any]
    page: str
    trouble: Exception | None = None

    @property
    def sentence(self) -> str:
        return str(self.document["verdict"])

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write both files and return their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = folder / JSON_FILE, folder / HTML_FILE
        paths[0].write_text(json.dumps(self.document, indent=1), encoding="utf-8")
        paths[1].write_text(self.page, encoding="utf-8")
        return paths


def make_report(
    record: ReplayRecord,
    setup: ReplaySetup,
    pace: ReplayPace,
    baselines: Sequence[Baseline],
    *,
    source: str,
    trouble: Exception | None = None,
) -> ReplayReport:
    """Compare the loop with the baselines on the rows that have predictions.

    Args:
        source: The name of the table.
        trouble: The error that ended the replay early, if one did.
    """
    outputs, answered = answers_of(record, setup)
    rows = len(answered)
    truth = setup.truth[setup.warmup : setup.warmup + rows]
    task: Task = "regression" if setup.truth.dtype.kind == "f" else "classification"
    strategies = [
        strategy_result(
            "the loop", task, truth, outputs, answered,
            retrainings=len(record.retrainings), seconds=record.seconds,
        )
    ]  # fmt: skip
    strategies += [
        strategy_result(
            b.name, task, truth, b.outputs, answered,
            retrainings=len(b.retrainings), seconds=b.seconds,
        )
        for b in baselines
    ]  # fmt: skip
    sentence = comparison_sentence(strategies, task)
    document = {
        "source": source,
        "model": setup.project.name,
        "task": task,
        "verdict": sentence,
        "interrupted": record.interrupted,
        "stopped": record.stopped,
        "warmup": setup.warmup,
        "rows": rows,
        "pace": pace.as_document(),
        "predictions_sent": record.sent,
        "predictions_stored": record.stored,
        "labels_sent": record.labels,
        "labels_stored": record.joined,
        "rows_refused": record.refused,
        "requests_failed": record.failed,
        "seconds": round(record.wall, 1),
        "ways": [_way(strategy) for strategy in strategies],
        "events": [vars(event) for event in record.events],
        "versions": _versions(record),
    }
    triggers = [event.row for event in record.events if event.kind == "trigger"]
    swaps = [event.row for event in record.events if event.kind == "swap"]
    figure = plot_replay(
        strategies, rows, task, triggers=triggers, swaps=swaps, title=setup.project.name
    )
    return ReplayReport(tuple(strategies), document, _page(document, to_png(figure)), trouble)


def _way(strategy: StrategyResult) -> dict[str, Any]:
    return {
        "name": strategy.name,
        "loss": _finite(strategy.loss),
        "metrics": {name: _finite(value) for name, value in strategy.metrics.items()},
        "retrainings": strategy.retrainings,
        "retraining_seconds": round(strategy.seconds, 2),
        "over_time": [_finite(value) for value in strategy.over_time.tolist()],
    }


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _versions(record: ReplayRecord) -> dict[str, int]:
    """Number of rows that each version predicted."""
    names, counts = np.unique(np.array(record.versions, dtype=str), return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))


def _page(document: dict[str, Any], picture: bytes) -> str:
    report = HtmlReport(f"Replay of {document['source']}")
    stopped = []
    if document["interrupted"]:
        stopped = [f"Stopped before the end. {document['stopped'] or ''}"]
    report.verdict(document["verdict"], stopped)
    report.paragraph(
        f"{document['rows']:,} live rows after a warm-up of {document['warmup']:,}; "
        f"{document['predictions_sent']:,} predictions and {document['labels_sent']:,} labels sent "
        f"in {document['seconds']:,.0f} s, labels {document['pace']['delay']:,} rows late; "
        f"{document['rows_refused']:,} rows refused, {document['requests_failed']:,} requests "
        "failed and retried."
    )
    report.image(picture, "image/png", "Loss over time of each strategy, with triggers and swaps")
    metrics = list(document["ways"][0]["metrics"])[:4]
    head = ["", "loss", *metrics, "retrainings", "seconds"]
    report.table(head, [_table_cells(way, metrics) for way in document["ways"]])
    report.paragraph(
        "The loss is the share of wrong answers, or the mean absolute error. A row counts for all "
        "strategies or for none. Seconds are those spent on retraining."
    )
    report.heading("Events")
    events = [[f"{e['row']:,}", e["kind"], e["text"]] for e in document["events"]]
    report.table(["after rows", "", ""], events or [["", "", "There were no events."]])
    return report.render()


def _table_cells(way: dict[str, Any], metrics: Sequence[str]) -> list[str]:
    values = [way["loss"], *(way["metrics"].get(name) for name in metrics)]
    numbers = ["" if value is None else format(value, ".4g") for value in values]
    return [way["name"], *numbers, str(way["retrainings"]), f"{way['retraining_seconds']:.1f}"]
