"""Apply Evidently's data drift preset to windows from an .npz file, in Evidently's environment."""

import json
import sys
import warnings

warnings.simplefilter("ignore")

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from evidently import Report  # noqa: E402
from evidently.presets import DataDriftPreset  # noqa: E402


def drifted_columns(reference: np.ndarray, window: np.ndarray) -> tuple[float, float]:
    """Return the number and share of drifted columns, with the preset's defaults."""
    names = [f"x{i}" for i in range(reference.shape[1])]
    before, after = (pd.DataFrame(rows, columns=names) for rows in (reference, window))
    metrics = Report([DataDriftPreset()]).run(after, before).dict()["metrics"]
    value = next(m["value"] for m in metrics if "DriftedColumnsCount" in m["metric_name"])
    return value["count"], value["share"]


def main(path: str) -> None:
    arrays = np.load(path)
    windows = sum(1 for name in arrays if name.startswith("window_"))
    found = [
        drifted_columns(arrays[f"reference_{i}"], arrays[f"window_{i}"]) for i in range(windows)
    ]
    counts = {
        "Evidently preset, any column": sum(count > 0 for count, _ in found),
        "Evidently preset, half of columns": sum(share >= 0.5 for _, share in found),
    }
    print(json.dumps(counts))


main(sys.argv[1])
