"""Traffic whose labels invert at one moment (concept drift), for `tidemill demo --drift`."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

MODEL = "tides"
NOISE = 0.05  # share of labels that are flipped at random

PROJECT = '''"""High or low water, from the moon and the wind."""

from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from tidemill import Candidate, Gate, Project, Retraining, csv

project = Project(
    name="tides",
    data=csv("tides.csv"),
    target="level",
    candidates=[
        Candidate("logistic_regression", LogisticRegression),
        Candidate("random_forest", RandomForestClassifier, {"n_estimators": 20, "max_depth": 6}),
    ],
    gate=Gate(metric="accuracy"),
    retrain=Retraining(cooldown=0),
)
'''


def write_drift_project(folder: Path, rows: int = 800) -> Path:
    """Write a project with its training table; returns the project file."""
    folder.mkdir(parents=True, exist_ok=True)
    frame, levels = draw(rows, seed=1)
    lines = ["moon,wind,port,level"]
    for row, level in zip(frame, levels, strict=True):
        lines.append(f"{row['moon']},{row['wind']},{row['port']},{level}")
    (folder / "tides.csv").write_text("\n".join(lines) + "\n")
    (folder / "project.py").write_text(PROJECT)
    return folder / "project.py"


def draw(rows: int, *, seed: int, drifted: bool = False) -> tuple[list[dict[str, Any]], list[str]]:
    """Draw rows and their labels; after the drift the same inputs have the opposite label."""
    random = np.random.default_rng(seed)
    moon, wind = random.normal(size=rows).round(4), random.normal(size=rows).round(4)
    ports = random.choice(["Brest", "Cuxhaven", "Dover"], rows).tolist()
    high = (moon + 0.4 * wind > 0) ^ drifted ^ (random.random(rows) < NOISE)
    frame = [
        {"moon": m, "wind": w, "port": p}
        for m, w, p in zip(moon.tolist(), wind.tolist(), ports, strict=True)
    ]
    return frame, ["high" if h else "low" for h in high.tolist()]


@dataclass
class DriftingTraffic:
    """While the block runs, sends batches of predictions, each followed by its labels.

    Attributes:
        rows: Rows per batch.
        pause: Seconds between batches.
        drifted: Set this event to invert the labels.
        answers: Predictions received by (version, after the drift).
        wrong: The wrong ones among them.
        failures: The errors of requests that failed.
        sent: Predictions sent.
    """

    client: httpx.Client
    rows: int = 20
    pause: float = 0.05
    drifted: threading.Event = field(default_factory=threading.Event)
    answers: Counter[tuple[str, bool]] = field(default_factory=Counter)
    wrong: Counter[tuple[str, bool]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    sent: int = 0

    def __enter__(self) -> DriftingTraffic:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    @property
    def newest_version(self) -> str:
        """The highest version that has answered; "1" before the first answer."""
        numbers = [int(version) for version, _ in list(self.answers) if version.isdigit()]
        return str(max(numbers, default=1))

    def error_rate(self, version: str, *, drifted: bool) -> float | None:
        """A version's share of wrong predictions before or after the drift; None without any."""
        key = (version, drifted)
        return self.wrong[key] / self.answers[key] if self.answers[key] else None

    def _run(self) -> None:
        seed = 100
        while not self._stop.wait(self.pause):
            seed += 1
            drifted = self.drifted.is_set()
            frame, levels = draw(self.rows, seed=seed, drifted=drifted)
            try:
                answer = self._post(f"/models/{MODEL}/predict_batch", {"instances": frame})
                pairs = list(zip(answer["predictions"], levels, strict=True))
                self._post("/feedback", [{"id": p["id"], "actual": level} for p, level in pairs])
            except Exception as error:  # every kind of error is a failed request
                self.failures.append(f"{type(error).__name__}: {error}")
                continue
            self.sent += self.rows
            key = (str(answer["version"]), drifted)
            self.answers[key] += self.rows
            self.wrong[key] += sum(each["prediction"] != level for each, level in pairs)

    def _post(self, path: str, body: Any) -> Any:
        answer = self.client.post(path, json=body)
        answer.raise_for_status()
        return answer.json()


@dataclass
class Timeline:
    """Events by the seconds since `start`."""

    start: float = field(default_factory=time.monotonic)
    rows: list[tuple[float, str, str]] = field(default_factory=list)

    def add(self, what: str, detail: str = "") -> float:
        """Add an event that happens now; returns its seconds."""
        seconds = time.monotonic() - self.start
        self.rows.append((seconds, what, detail))
        return seconds
