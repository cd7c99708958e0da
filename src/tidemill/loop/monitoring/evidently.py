"""Evidently's data drift report on a checked window.

It is an optional extra, `pip install 'tidemill[evidently]'`, which needs a pandas below 3.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from tidemill.errors import NotFoundError, ProjectError

if TYPE_CHECKING:
    from tidemill.loop.monitoring.watcher import Watcher
    from tidemill.stores.monitoring.results import MonitoringResults


def write_evidently(
    watcher: Watcher,
    results: MonitoringResults,
    model: str,
    beside: Path,
    window: int | None = None,
) -> Path:
    """Write `<beside>.evidently.html` on the same rows, with the profile's sample as reference.

    Raises:
        NotFoundError: The window was not checked, or its rows are no longer stored.
        ProjectError: Evidently is not installed.
    """
    from tidemill.loop.monitoring.report import find_window

    row = find_window(results, model, window)
    if row is None:
        raise NotFoundError(f"No window of '{model}' was checked yet.")
    found = watcher.predictions.window(
        model,
        version=row["version"],
        since=row["window_start"],
        last=row["rows"],
        until=row["window_end"] + 1e-6,
    )
    reference = _sample(watcher.references.of(model).profile)
    if found.frame is None or reference.empty:
        raise NotFoundError(f"The inputs of window {row['id']} of '{model}' are not stored.")
    names = [name for name in reference.columns if name in found.frame]
    path = beside.with_name(f"{beside.stem}.evidently.html")
    write_drift_preset(reference[names], found.frame[names], path)
    return path


def write_drift_preset(reference: pd.DataFrame, window: pd.DataFrame, path: Path) -> None:
    """Write the report of Evidently's data drift preset, with its defaults.

    Raises:
        ProjectError: Evidently is not installed, or cannot be imported.
    """
    try:
        from evidently import Report
        from evidently.presets import DataDriftPreset
    except Exception as error:  # its import fails in many ways with unsupported versions
        raise ProjectError(
            f"Evidently cannot be used: {type(error).__name__}: {error}",
            remedy="Install it with `pip install 'tidemill[evidently]'`.",
        ) from error
    Report([DataDriftPreset()]).run(window, reference).save_html(str(path))


def _sample(profile: dict[str, Any]) -> pd.DataFrame:
    """The training rows in the profile's sample."""
    columns = {n: entry["sample"] for n, entry in profile["columns"].items() if "sample" in entry}
    return pd.DataFrame(columns)
