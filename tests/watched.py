"""A small champion on a shelf, and the traffic it answers: for tests of watching."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from tidemill.bundle import Bundle
from tidemill.platform import Platform
from tidemill.serving.journal.record_types import JournalRecord
from tidemill.serving.shelf.shelf import (
    ShelfEntry,
    ShelfState,
    install_bundle,
    read_state,
    write_state,
)
from tidemill.signature import Column, Signature
from tidemill.steps.export.bundle_writer import BundleMetadata, HeldOutRows, export_bundle
from tidemill.stores.predictions.feedback import NewLabel

NAME = "plants"
COLUMNS = ("height", "leaves", "shade")
SIGNATURE = Signature(
    "classification",
    "species",
    columns=tuple(Column(c, "number") for c in COLUMNS),
    labels=("fern", "moss"),
)
PROJECT = """
from sklearn.linear_model import LogisticRegression
from tidemill import Candidate, Decay, Drift, Gate, Project, Retraining, csv

project = Project(
    "plants", csv("plants.csv"), "species",
    [Candidate("logistic", LogisticRegression)],
    gate=Gate(metric="accuracy"),
    drift=Drift(rows=300, age=None),
    decay=Decay(rows=200, age=None),
    retrain=Retraining({retrain}),
)
"""


def draw(rows: int, random: np.random.Generator, shift: float = 0.0) -> pd.DataFrame:
    """Inputs; `shift` moves `shade`, which has no weight, by so many standard deviations."""
    frame = pd.DataFrame(random.standard_normal((rows, 3)), columns=list(COLUMNS))
    frame["shade"] += shift
    return frame


def species(frame: pd.DataFrame, random: np.random.Generator) -> np.ndarray:
    """The truth: moss where height and leaves are low, give or take."""
    noise = 0.7 * random.standard_normal(len(frame))
    return np.where(frame["height"] + frame["leaves"] + noise < 0, "moss", "fern").astype(object)


@cache
def trained() -> tuple[Any, Path]:
    """The model, and its bundle; made once."""
    random = np.random.default_rng(1)
    train, test = draw(2000, random), draw(1000, random)
    model = LogisticRegression().fit(train, species(train, random))
    folder = Path(tempfile.mkdtemp(prefix="tidemill-test-bundle-")) / "bundle"
    truth = species(test, random)
    export_bundle(model, SIGNATURE, train, HeldOutRows(test, truth), folder, BundleMetadata(NAME))
    return model, folder


def shelve(shelf: Path, version: str = "1", name: str = NAME) -> ShelfEntry:
    """Make the bundle the champion of that version."""
    from tidemill import bundle

    held: Bundle = bundle.read(trained()[1])
    placed = install_bundle(shelf, name, version, held.path, held.digest)
    models = {**read_state(shelf).models, name: placed}
    write_state(shelf, ShelfState(models=models))
    return placed


@dataclass
class Traffic:
    """Asks the model and labels its answers; no two rows at the same time."""

    platform: Platform
    name: str = NAME
    version: str = "1"
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(11))
    now: float = 0.0
    numbers: Any = field(default_factory=itertools.count)

    def ask(
        self, rows: int, *, shift: float = 0.0, role: str = "champion", **more: Any
    ) -> list[tuple[str, str]]:
        """Store so many predictions; gives the id and the truth of each."""
        frame = draw(rows, self.random, shift)
        chances = trained()[0].predict_proba(frame)
        truth = species(frame, self.random)
        answered = []
        records = []
        for features, likely, true in zip(frame.to_numpy(), chances, truth, strict=True):
            self.now = max(self.now + 1e-4, time.time())
            identity = f"p{next(self.numbers):07d}"
            answered.append((identity, str(true)))
            fields: dict[str, Any] = {
                "id": identity, "time": self.now, "model": self.name, "version": self.version,
                "rows": 1, "encoding": "f8", "features": features.astype("<f8").tobytes(),
                "predictions": [SIGNATURE.labels[int(likely.argmax())]],
                "probabilities": likely.astype("<f4").tobytes(), "latency": 0.002, "role": role,
            }  # fmt: skip
            records.append(JournalRecord(**{**fields, **more}))
        signatures = {(self.name, self.version): SIGNATURE}
        self.platform.predictions.add(records, signatures)
        return answered

    def label(self, answered: list[tuple[str, str]], *, wrong: float = 0.0) -> None:
        """Tell the truth of these, with a share of it turned round."""
        other = {"fern": "moss", "moss": "fern"}
        turned = self.random.random(len(answered)) < wrong
        labels = [
            NewLabel(identity, other[true] if turn else true)
            for (identity, true), turn in zip(answered, turned, strict=True)
        ]
        self.platform.feedback.add(labels)


def write_project(folder: Path, retrain: str = "cooldown=0") -> Path:
    """A project file that watches in small windows."""
    path = folder / "project.py"
    path.write_text(PROJECT.replace("{retrain}", retrain))
    rows = draw(200, np.random.default_rng(3))
    rows.assign(species=species(rows, np.random.default_rng(4))).to_csv(
        folder / "plants.csv", index=False
    )
    return path


def forget_bundle() -> None:
    """Remove what `trained` made."""
    if trained.cache_info().currsize:
        shutil.rmtree(trained()[1].parent, ignore_errors=True)
