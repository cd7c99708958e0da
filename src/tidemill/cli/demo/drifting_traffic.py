"""Traffic whose truth turns around at one moment, for `tidemill demo --drift`."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODEL = "tides"
WRONG = 0.05  # share of labels that follow no law

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
    """A project with its table; gives the project's file."""
    folder.mkdir(parents=True, exist_ok=True)
    frame, levels = draw(rows, seed=1)
    lines = ["moon,wind,port,level"]
    for row, level in zip(frame, levels, strict=True):
        lines.append(f"{row['moon']},{row['wind']},{row['port']},{level}")
    (folder / "tides.csv").write_text("\n".join(lines) + "\n")
    (folder / "project.py").write_text(PROJECT)
    return folder / "project.py"


def draw(rows: int, *, seed: int, turned: bool = False) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows and their labels; once the tide has turned, the same inputs mean the opposite."""
    import numpy as np

    random = np.random.default_rng(seed)
    moon, wind = random.normal(size=rows).round(4), random.normal(size=rows).round(4)
    ports = random.choice(["Brest", "Cuxhaven", "Dover"], rows).tolist()
    high = (moon + 0.4 * wind > 0) ^ turned ^ (random.random(rows) < WRONG)
    frame = [
        {"moon": m, "wind": w, "port": p}
        for m, w, p in zip(moon.tolist(), wind.tolist(), ports, strict=True)
    ]
    return frame, ["high" if h else "low" for h in high.tolist()]


@dataclass
class DriftingTraffic:
    """Asks without pause for batches, and sends the truth right behind, while the block runs.

    Attributes:
        turned: Set it, and the truth turns around.
        errors: Of the newest batches, the share of wrong answers by the moment they came.
    """

    client: Any
    rows: int = 20
    pause: float = 0.05
    turned: threading.Event = field(default_factory=threading.Event)
    versions: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
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

    def _run(self) -> None:
        seed = 100
        while not self._stop.wait(self.pause):
            seed += 1
            turned = self.turned.is_set()
            frame, levels = draw(self.rows, seed=seed, turned=turned)
            try:
                answer = self._ask(f"/models/{MODEL}/predict_batch", {"instances": frame})
                told = [
                    {"id": each["id"], "actual": level}
                    for each, level in zip(answer["predictions"], levels, strict=True)
                ]
                self._ask("/feedback", told)
            except Exception as error:  # whatever keeps a request from its answer is a failure
                self.failures.append(f"{type(error).__name__}: {error}")
                continue
            self.sent += self.rows
            self._count(str(answer["version"]), turned, answer["predictions"], levels)

    def _ask(self, path: str, body: Any) -> Any:
        answer = self.client.post(path, json=body)
        answer.raise_for_status()
        return answer.json()

    def _count(self, version: str, turned: bool, answers: list[Any], levels: list[str]) -> None:
        self.versions[version] += self.rows
        pairs = zip(answers, levels, strict=True)
        wrong = sum(answer["prediction"] != level for answer, level in pairs)
        self.wrong[f"v{version} {'after' if turned else 'before'}"] += wrong
        self.versions[f"v{version} {'after' if turned else 'before'}"] += self.rows

    def error(self, version: str, *, turned: bool) -> float | None:
        """A version's share of wrong answers before or after the turn; None if it gave none."""
        key = f"v{version} {'after' if turned else 'before'}"
        return self.wrong[key] / self.versions[key] if self.versions[key] else None


@dataclass
class Timeline:
    """What happened, by seconds since `began`."""

    began: float = field(default_factory=time.monotonic)
    rows: list[tuple[float, str, str]] = field(default_factory=list)

    def add(self, what: str, detail: str = "") -> float:
        moment = time.monotonic() - self.began
        self.rows.append((moment, what, detail))
        return moment
