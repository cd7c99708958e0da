"""A Tidemill home for the benchmark, made under the project's interpreter: FOLDER

Its shelf holds both models, compiled as `tidemill train` compiles them, and its keyring one key
that may predict; the key itself is in the file `token`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType

from benchmarks.serving.train import MODELS, columns, fit, split
from tidemill import bundle, keyring
from tidemill.bundle import Answer, Example, Manifest, ModelInput, ModelOutputs
from tidemill.serving.shelf import ShelfState, place, write_state
from tidemill.signature import Column, Signature


def main(home: Path) -> None:
    placed = {}
    for name in MODELS:
        made = export(name, home / "made" / name)
        placed[name] = place(home / "shelf", name, "1", made.path, made.digest)
    state = ShelfState(default="logistic", models=placed, synced_at=time.time())
    write_state(home / "shelf", state)
    ring, token, _ = keyring.add(keyring.new_keyring(), ("predict",))
    keyring.save(home / "keys.json", ring)
    (home / "token").write_text(token)


def export(name: str, folder: Path) -> Any:
    folder.mkdir(parents=True)
    names = tuple(columns())
    signature = Signature(
        task="classification",
        target="target",
        columns=tuple(Column(n, "number") for n in names),
        labels=(0, 1),
    )
    model = fit(name)
    inputs = [("X", FloatTensorType([None, 30]))]
    compiled = to_onnx(model, initial_types=inputs, options={"zipmap": False})
    (folder / "model.onnx").write_bytes(compiled.SerializeToString())
    _, X, _, _ = split()
    rows = tuple(tuple(row) for row in X[:5].tolist())
    probabilities = model.predict_proba(np.float32(X[:5])).tolist()
    answers = tuple(
        Answer(int(label), tuple(p)) for label, p in zip(model.predict(X[:5]), probabilities)
    )
    (folder / "signature.json").write_bytes(msgspec.json.encode(signature))
    (folder / "profile.json").write_bytes(b"{}")
    (folder / "example.json").write_bytes(msgspec.json.encode(Example(rows, answers)))
    manifest = Manifest(
        format=1,
        model=name,
        created="2026-11-21T00:00:00Z",
        runtime="onnx",
        files={},
        inputs=(ModelInput("X", "float32", names),),
        outputs=ModelOutputs(label="label", probabilities="probabilities"),
    )
    return bundle.seal(folder, manifest)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
