"""Gathers what the gate decides on: held-out rows that are fresh, and both versions' answers."""

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
    """Rows to judge on. `prepared` is what they came out of; None when the caller gave them."""

    frame: pd.DataFrame
    prepared: PreparedData | None = None


def gather_rows(project: Project | None, given: pd.DataFrame | None) -> GateRows:
    """The rows that the caller gave, else those that the project's data hold out.

    Raises:
        GateError: There is neither.
        DataError: The project's data cannot be used.
    """
    if given is not None:
        return GateRows(given)
    if project is None:
        raise GateError(
            "There are no rows to judge on, because no project is known for this model.",
            remedy="Name its project with --project, or use --force with a reason.",
        )
    prepared = prepare(project)
    return GateRows(prepared.test, prepared)


def compare_versions(
    registry: Registry,
    challenger: ModelVersion,
    champion: ModelVersion | None,
    rows: GateRows,
    gate: Gate,
    project: Project | None = None,
    *,
    trusted: Iterable[str] = (),
) -> GateVerdict:
    """Evaluate both versions' bundles on the same fresh rows, and let the gate decide.

    Raises:
        NotFoundError: One of them has no bundle.
        BundleError: One of their bundles is damaged or cannot be loaded.
        GateError: No rows are left that neither learned from, or the two cannot be compared.
    """
    versions = [challenger] + ([champion] if champion else [])
    with tempfile.TemporaryDirectory(prefix="tidemill-gate-") as scratch:
        bundles = [registry.fetch_bundle(v, Path(scratch) / v.number) for v in versions]
        signature = bundles[0].signature
        _refuse_incomparable(bundles)
        fresh, notes = _fresh(registry, versions, rows, project, signature)
        taken, refused = _accepted(rows.frame[fresh], bundles)
        frame = rows.frame[fresh][taken]
        _refuse_few(len(frame), len(rows.frame))
        outcomes = [evaluate_bundle(held, frame, trusted=trusted) for held in bundles]
    verdict = evaluate_gate(
        outcomes[0],
        outcomes[1] if champion else None,
        _truth(frame, signature),
        gate,
        signature.task,
    )
    return msgspec.structs.replace(verdict, notes=(*notes, *refused))


def record_split(
    registry: Registry, version: ModelVersion, rows: GateRows, project: Project | None
) -> None:
    """Remember which rows a version did not learn from, while its data are still what they were."""
    prepared = rows.prepared
    if project is None or prepared is None or version.tags.get(SPLIT_TAG):
        return
    if registry.run_tags(version).get(TEST_TAG) != prepared.test_fingerprint:
        return
    cut = cut_of(prepared.frame, prepared.test, project, prepared.task)
    if cut is not None:
        registry.set_tags(version, {SPLIT_TAG: msgspec.json.encode(cut).decode()})


def _refuse_incomparable(bundles: list[Bundle]) -> None:
    tasks = {held.signature.task for held in bundles}
    targets = {held.signature.target for held in bundles}
    if len(tasks) > 1 or len(targets) > 1:
        words = [f"{held.signature.task} of '{held.signature.target}'" for held in bundles]
        raise GateError(f"The versions cannot be compared: {' and '.join(words)}.")


def _fresh(
    registry: Registry,
    versions: list[ModelVersion],
    rows: GateRows,
    project: Project | None,
    signature: Signature,
) -> tuple[Mask, list[str]]:
    """Rows that no version learned from, and what cannot be told about that."""
    fresh, notes = np.ones(len(rows.frame), dtype=bool), list[str]()
    if rows.prepared is None or project is None:
        return fresh, ["The rows were given by the caller, who vouches that they are fresh."]
    for version in versions:
        known = _fresh_to(registry, version, rows, project, signature)
        if isinstance(known, str):
            notes.append(known)
        else:
            fresh &= known
    if not fresh.all():
        notes.append(f"{int((~fresh).sum())} rows were left out: a version had learned from them.")
    return fresh, notes


def _fresh_to(
    registry: Registry,
    version: ModelVersion,
    rows: GateRows,
    project: Project,
    signature: Signature,
) -> Mask | str:
    """The rows that one version did not learn from, or a note that this cannot be told."""
    assert rows.prepared is not None
    found = registry.run_tags(version).get(TEST_TAG)
    if found == rows.prepared.test_fingerprint:
        return np.ones(len(rows.frame), dtype=bool)
    if not project.shuffle:
        return (
            f"The data have changed since version {version.number} was trained; the last rows are "
            "held out, which it has not seen if rows were only added at the end."
        )
    cut = _cut(version)
    known = is_fresh(rows.frame, cut, signature.target, signature.task) if cut else None
    if known is not None:
        return known
    return (
        f"The data have changed since version {version.number} was trained, and it is not known "
        "which rows it held out; some of these may have been among what it learned from."
    )


def _cut(version: ModelVersion) -> Cut | None:
    text = version.tags.get(SPLIT_TAG)
    try:
        return msgspec.json.decode(text, type=Cut) if text else None
    except msgspec.DecodeError:
        return None


def _accepted(frame: pd.DataFrame, bundles: list[Bundle]) -> tuple[Mask, list[str]]:
    """Rows that both versions' servers would take; those that one refuses say nothing of it."""
    taken, notes = np.ones(len(frame), dtype=bool), list[str]()
    for whose, held in zip(("challenger", "champion"), bundles, strict=False):
        good = accepted_rows(frame, held.signature)
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
