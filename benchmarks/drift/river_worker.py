"""Apply river's detectors, with their defaults, to streams of losses, in river's environment."""

import json
import sys

import numpy as np
from river import drift

DETECTORS = {
    "Page-Hinkley": lambda: drift.PageHinkley(mode="up"),
    "ADWIN": drift.ADWIN,
}


def alarms(detector, losses: np.ndarray) -> list[int]:
    """Return the rows at which a detector signals an increase of the losses."""
    rows = []
    for row, loss in enumerate(losses.tolist(), start=1):
        before = getattr(detector, "estimation", None)
        detector.update(loss)
        rose = before is None or detector.estimation > before
        if detector.drift_detected and rose:
            rows.append(row)
    return rows


def main(path: str) -> None:
    arrays = np.load(path)
    streams = [arrays[f"stream_{i}"] for i in range(len(arrays.files))]
    found = {
        name: [alarms(make(), losses) for losses in streams] for name, make in DETECTORS.items()
    }
    print(json.dumps(found))


main(sys.argv[1])
