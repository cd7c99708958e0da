"""Create a Tidemill home for the benchmark, in the project's environment: FOLDER

The shelf holds both models, compiled as `tidemill train` compiles them. The keyring holds one key
with the `predict` scope; the key itself is in the file `token`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from benchmarks.serving.train import MODELS, fit, split
from tidemill import keyring
from tidemill.bundle import Bundle
from tidemill.project import Candidate, Project, sklearn_dataset
from tidemill.serving.shelf.shelf import ShelfState, install_bundle, write_state
from tidemill.steps.data.signature_inference import infer_signature
from tidemill.steps.export.bundle_writer import BundleMetadata, HeldOutRows, export_bundle


def main(home: Path) -> None:
    placed = {}
    for name in MODELS:
        made = export(name, home / "made" / name)
        placed[name] = install_bundle(home / "shelf", name, "1", made.path, made.digest)
    state = ShelfState(default="logistic", models=placed, synced_at=time.time())
    write_state(home / "shelf", state)
    ring, token, _ = keyring.add(keyring.new_keyring(), ("predict",))
    keyring.save(home / "keys.json", ring)
    (home / "token").write_text(token)


def export(name: str, folder: Path) -> Bundle:
    """Export the bundle of one model."""
    X_train, X_test, y_train, y_test = split(as_frame=True)
    model = fit(name, as_frame=True)
    project = Project(name, sklearn_dataset("breast_cancer"), "target", [Candidate(name, model)])
    signature = infer_signature(X_train, y_train, "classification", project)
    return export_bundle(
        model,
        signature,
        X_train,
        HeldOutRows(X_test, y_test.to_numpy()),
        folder,
        BundleMetadata(name),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
