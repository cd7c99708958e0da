"""Tidemill as its README says, `init`, `train`, `predict`, with the given task and metric."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from common import Job

METRIC = {"binary": "roc_auc", "multiclass": "accuracy", "regression": "r2"}


def main() -> None:
    job = Job("tidemill")
    project = job.out / "model"
    home = f"--home={job.out / 'home'}"
    train = str((job.folder / "train.csv").resolve())
    shutil.rmtree(project, ignore_errors=True)
    task = "regression" if job.task == "regression" else "classification"
    said = run("init", str(project), "--from", train, "--target", job.target, "--task", task)
    file = project / "project.py"
    file.write_text(re.sub(r'metric="\w+"', f'metric="{METRIC[job.task]}"', file.read_text()))
    trained = json.loads(run("train", "--json", home, cwd=project))
    model = f"models:/{trained['model']}/{trained['version']}"
    scored = job.out.resolve() / "scored.csv"
    test = str((job.folder / "test.csv").resolve())
    run("predict", model, test, "-o", str(scored), "--keep-going", home, cwd=project)
    frame = pd.read_csv(scored, dtype=str, keep_default_na=False)
    job.write(frame["prediction"], positive(frame, job), **notes(trained, said, frame))


def run(*arguments: str, cwd: Path | None = None) -> str:
    command = [sys.executable, "-m", "tidemill", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{arguments[0]}: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    print(done.stdout)
    return done.stdout


def positive(frame: pd.DataFrame, job: Job) -> Any:
    if job.task != "binary":
        return None
    last = job.facts["classes"][-1].strip().strip("'")
    names = [n for n in frame.columns if n.startswith("probability") and n.endswith(last)]
    return frame[names[-1]]


def notes(trained: dict[str, Any], said: str, frame: pd.DataFrame) -> dict[str, Any]:
    refused = int((frame["error"] != "").sum()) if "error" in frame else 0
    return {"best": trained["candidate"], "refused": refused, "said": said[-2000:]}


if __name__ == "__main__":
    main()
