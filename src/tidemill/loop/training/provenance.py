"""Where a run came from: the code, the packages, and the data it was made with."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import subprocess
import sys
from pathlib import Path

from tidemill.project import Project
from tidemill.steps.data.prepare import PreparedData
from tidemill.stores.mlflow.tracking import DatasetUsed

logger = logging.getLogger(__name__)

PACKAGES = (
    "tidemill",
    "scikit-learn",
    "numpy",
    "pandas",
    "scipy",
    "mlflow",
    "onnx",
    "onnxruntime",
    "skl2onnx",
    "skops",
)
OPTIONAL_PACKAGES = {"torch": "torch", "skorch": "skorch", "xgboost": "xgboost",
                  "lightgbm": "lightgbm", "catboost": "catboost"}  # fmt: skip


def package_versions() -> dict[str, str]:
    """Python and the packages a model may depend on, at the versions in use."""
    names = [
        *PACKAGES,
        *(name for name, module in OPTIONAL_PACKAGES.items() if module in sys.modules),
    ]
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit(folder: Path) -> str | None:
    """The commit that a folder's repository is at, with "-dirty" when files have changed since.

    None outside of a repository, or without git.
    """
    head = _git(folder, "rev-parse", "HEAD")
    if head is None:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".")
    return f"{head}-dirty" if changed else head


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        logger.debug("git tells nothing about %s: %s", folder, error)
        return None
    return done.stdout.strip()


def origin_tags(project: Project, data: PreparedData) -> dict[str, str]:
    """Tags for every run of a training: its project's, its code, its data, its packages."""
    tags = {
        **project.tags,
        "tidemill.model": project.name,
        "tidemill.task": data.task,
        "tidemill.data_source": data.source,
        "tidemill.data_fingerprint": data.fingerprint,
        "tidemill.test_fingerprint": data.test_fingerprint,
    }
    tags |= {f"tidemill.version.{name}": text for name, text in package_versions().items()}
    commit = git_commit(project.root)
    if commit is not None:
        tags |= {"tidemill.git_commit": commit}
        tags |= {"mlflow.source.git.commit": commit.removesuffix("-dirty")}
    return tags


def data_used(project: Project, data: PreparedData) -> DatasetUsed:
    """The training's data, as MLflow shows it beside the run."""
    return DatasetUsed(
        name=project.name,
        fingerprint=data.fingerprint,
        source=data.source,
        rows=len(data.frame),
        columns=len(data.inputs),
    )
