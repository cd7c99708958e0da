"""What the workers share. It is imported in the peers' environments, so it needs only pandas."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd


class Job:
    """The task of one worker: `python WORKER.py FOLDER SECONDS`.

    A peer's user reads the files with `pandas.read_csv`, which is what `train` and `test` do. `?`
    is read as a missing value: someone who looks at the table once would say so.
    """

    def __init__(self, tool: str) -> None:
        self.folder = Path(sys.argv[1])
        self.seconds = int(sys.argv[2])
        self.out = self.folder / tool
        self.facts: dict[str, Any] = json.loads((self.folder / "facts.json").read_text())
        self.target: str = self.facts["target"]
        self.task: str = self.facts["task"]

    def train(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / "train.csv", na_values=["?"])

    def test(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / "test.csv", na_values=["?"])

    def write(self, predicted: Any, positive: Any = None, **notes: Any) -> None:
        """Write one prediction per test row, and the probability of the last class."""
        frame = pd.DataFrame({"prediction": list(predicted)})
        if positive is not None:
            frame["positive"] = list(positive)
        frame.to_csv(self.out / "predictions.csv", index=False)
        (self.out / "notes.json").write_text(json.dumps(notes, default=str))
