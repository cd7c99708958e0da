"""Compile both models to ONNX for the two lower bounds, in the project's environment: FOLDER"""

from __future__ import annotations

import sys
from pathlib import Path

from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType

from benchmarks.serving.train import MODELS, fit


def main(folder: Path) -> None:
    for name in MODELS:
        inputs = [("X", FloatTensorType([None, 30]))]
        model = to_onnx(fit(name), initial_types=inputs, options={"zipmap": False})
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
