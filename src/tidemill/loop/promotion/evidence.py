"""Collect the gate's evidence: rows that neither version was trained on, and predictions."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd

from tidemill.bundle import Bundle
from tidemill.errors import GateError
from tidemill.loop.promotion.bundle_evaluation import accepted_rows, evaluate_bundle
from tidemill.project import Gate, Project
from tidemill.signature import Signature
from tidemill.steps.data.prepare import PreparedData, prepare
from tidemill.steps.gate.freshness import Cut, cut_of, is_fresh
from tidemill.steps.gate.gate import GateVerdict, evaluate_gate
from tidemill.stores.mlflow.registry import Registry
from tidemill.stores.mlflow.versions import ModelVersion

logger = logging.getLogger(__name__)

Mask = npt.NDArray[np.bool_]

SPLIT_TAG = "tidemill.split"
TEST_TAG = "tidemill.test_fingerprint"
FEWEST_ROWS = 20


@dataclass(frozen=True)
class GateRows:
    """Rows to compare versions on; without `project` and `prepared` where the caller gave them."""

    frame: pd.DataFrame
    project: Project | None = None
    prepared: PreparedData | None = None


def gather_rows(project: Project | None, given: pd.DataFrame | None) -> GateRows:
    """Return the rows given by the caller, else the held-out rows of the project's data.

    Raises:
        GateError: There are neither.
        DataError: The project's data cannot be used.
    """
    if given is not None:
        return GateRows(given)
    if project is None:
        raise GateError(
            "There are no rows to compare versions on: no project is known for this model.",
            remedy="Name its project with --project, or use --force with a reason.",
        )
    prepared = prepare(project)
    return GateRows(prepared.test, project, prepared)


def compare_versions(
    registry: Registry,
    challenger: ModelVersion,
    champion: ModelVersion | None,
    rows: GateRows,
    gate: Gate,
    *,
    trusted: Iterable[str] = (),
) -> GateVerdict:
    """Evaluate both versions' bundles on the same fresh rows and apply the gate.

    Raises:
        NotFoundError: One of them has no bundle.
        BundleError: One of their bundles is damaged or cannot be loaded.
        GateError: Too few rows are left that neither was trained on, or the two cannot be compared.
    """
    versions = [challenger] + ([champion] if champion else [])
    with tempfile.TemporaryDirectory(prefix="tidemill-gate-") as scratch:
        bundles = [registry.fetch_bundle(v, Path(scratch) / v.number) for v in versions]
        signature = bundles[0].signature
        _refuse_incomparable(bundles)
        fresh, notes = _fresh(registry, versions, rows, signature)
        taken, refused = _accepted(rows.frame[fresh], bundles)
        frame = rows.frame[fresh][taken]
        _refuse_few(len(frame), len(rows.frame))
        outcomes = [evaluate_bundle(bundle, frame, trusted=trusted) for bundle in bundles]
    verdict = evaluate_gate(
        outcomes[0],
        outcomes[1] if champion else None,
        _truth(frame, signature),
        gate,
        signature.task,
    )
    return msgspec.structs.replace(verdict, notes=(*notes, *refused))


def record_split(registry: Registry, version: ModelVersion, rows: GateRows) -> None:
    """Tag a version with the split of its data, if those have not changed since."""
    project, prepared = rows.project, rows.prepared
    if project is None or prepared is None or version.tags.get(SPLIT_TAG):
        return
    if registry.run_tags(version).get(TEST_TAG) != prepared.test_fingerprint:
        return
    cut = cut_of(prepared.frame, prepared.test, project, prepared.task)
    if cut is not None:
        registry.set_tags(version, {SPLIT_TAG: msgspec.json.encode(cut).decode()})


def _refuse_incomparable(bundles: list[Bundle]) -> None:
    tasks = {bundle.signature.task for bundle in bundles}
    targets = {bundle.signature.target for bundle in bundles}
    if len(tasks) > 1 or len(targets) > 1:
        words = [f"{bundle.signature.task} of '{bundle.signature.target}'" for bundle in bundles]
        raise GateError(f"The versions cannot be compared: {' and '.join(words)}.")


def _fresh(
    registry: Registry,
    versions: list[ModelVersion],
    rows: GateRows,
    signature: Signature,
) -> tuple[Mask, list[str]]:
    """Rows that no version was trained on, with notes where that is uncertain."""
    fresh, notes = np.ones(len(rows.frame), dtype=bool), list[str]()
    if rows.prepared is None or rows.project is None:
        return fresh, ["The rows were given by the caller; whether they are fresh is not checked."]
    for version in versions:
        known = _fresh_to(registry, version, rows, signature)
        if isinstance(known, str):
            notes.append(known)
        else:
            fresh &= known
    if not fresh.all():
        notes.append(f"{int((~fresh).sum())} rows were left out: a version was trained on them.")
    return fresh, notes


def _fresh_to(
    registry: Registry, version: ModelVersion, rows: GateRows, signature: Signature
) -> Mask | str:
    """The rows that a version was not trained on, or a note where that is unknown."""
    assert rows.prepared is not None
    assert rows.project is not None
    found = registry.run_tags(version).get(TEST_TAG)
    if found == rows.prepared.test_fingerprint:
        return np.ones(len(rows.frame), dtype=bool)
    if not rows.project.shuffle:
        return (
            f"The data have changed since version {version.number} was trained; the last rows are "
            "held out, which it was not trained on if rows were only added at the end."
        )
    cut = _cut(version)
    known = is_fresh(rows.frame, cut, signature.target, signature.task) if cut else None
    if known is not None:
        return known
    return (
        f"The data have changed since version {version.number} was trained, and which "
        "rows it held out is unknown; it may have been trained on some of these."
    )


def _cut(version: ModelVersion) -> Cut | None:
    text = version.tags.get(SPLIT_TAG)
    try:
        return msgspec.json.decode(text, type=Cut) if text else None
    except msgspec.DecodeError:
        return None


def _accepted(frame: pd.DataFrame, bundles: list[Bundle]) -> tuple[Mask, list[str]]:
    """Rows that both versions accept, with notes on those that one refuses."""
    taken, notes = np.ones(len(frame), dtype=bool), list[str]()
    for whose, bundle in zip(("challenger", "champion"), bundles, strict=False):
        good = accepted_rows(frame, bundle.signature)
        if not good.all():
            notes.append(f"{int((~good).sum())} rows were left out: the {whose} refuses them.")
        taken &= good
    return taken, notes


def _refuse_few(left: int, held_out: int) -> None:
    if left == 0 or (left < FEWEST_ROWS and left < held_out):
        raise GateError(
            f"Only {left} of {held_out} held-out rows are fresh to both versions and fit them; "
            f"{FEWEST_ROWS} are needed.",
            remedy="Train again on the data as they are now, or use --force with a reason.",
        )


def _truth(frame: pd.DataFrame, signature: Signature) -> npt.NDArray[Any]:
    target = frame[signature.target]
    if signature.task == "regression" or target.dtype.kind in "fib":
        return target.to_numpy()
    return np.array([str(value) for value in target], dtype=object)
