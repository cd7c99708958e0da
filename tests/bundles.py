"""Bundles for tests that move them and never run their model."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tidemill import bundle
from tidemill.bundle import Bundle, Example, Manifest, ModelInput, ModelOutputs
from tidemill.signature import Column, Signature


def make_bundle(folder: Path, content: bytes = b"model") -> Bundle:
    """A sealed bundle in a new folder, with `content` as its model file."""
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)
    signature = Signature(task="regression", target="y", columns=(Column("x", "number"),))
    (folder / bundle.SIGNATURE).write_bytes(msgspec.json.encode(signature))
    (folder / bundle.PROFILE).write_bytes(b"{}")
    (folder / bundle.EXAMPLE).write_bytes(msgspec.json.encode(Example(rows=(), answers=())))
    manifest = Manifest(
        format=bundle.FORMAT,
        model="m",
        created="2026-01-01T00:00:00Z",
        runtime="onnx",
        files={},
        inputs=(ModelInput("x", "float32", ("x",)),),
        outputs=ModelOutputs(value="y"),
    )
    return bundle.seal(folder, manifest)
