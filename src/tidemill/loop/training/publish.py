"""From the best trial to a registered version: bundle, MLflow model, plots, registry.

See decision 012.
"""

from __future__ import annotations

import logging
import pickle
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from tidemill.bundle import Bundle
from tidemill.errors import ExportError
from tidemill.loop.training.progress import Reporter
from tidemill.loop.training.provenance import package_versions
from tidemill.loop.training.trial import CANDIDATE_TAG, Sweep, TrainedModel, TrialOutcome, describe
from tidemill.project import Project
from tidemill.signature import Signature
from tidemill.steps.data.prepare import input_matrix, target_array
from tidemill.steps.data.preprocessing import find_scaler
from tidemill.steps.data.signature_inference import infer_signature
from tidemill.steps.export.bundle_writer import BundleMetadata, HeldOutRows, export_bundle
from tidemill.steps.gate import gate
from tidemill.steps.gate.freshness import cut_of
from tidemill.steps.gate.intervals import metric_intervals
from tidemill.steps.plots import evaluation as pictures
from tidemill.steps.plots import style
from tidemill.stores.mlflow.evidence import INTERVALS_FILE
from tidemill.stores.mlflow.model_logging import EXAMPLE_ROWS, LoggedModel, log_model
from tidemill.stores.mlflow.tracking import TrackedRun
from tidemill.stores.mlflow.versions import BUNDLE_TAG, RUN_TAG, STAGE_TAG

logger = logging.getLogger(__name__)

EXPORT_ERROR_TAG = "tidemill.export_error"
SPLIT_TAG = "tidemill.split"
BUNDLE_PATH = "bundle"
SCALER_FILE = "preprocessing/scaler.pkl"
CURVES_FILE, CALIBRATION_FILE = "roc_pr_curves.png", "calibration.png"
VERSION_TAGS = (
    "tidemill.data_source",
    "tidemill.data_fingerprint",
    "tidemill.test_fingerprint",
    "tidemill.git_commit",
    "tidemill.task",
)


@dataclass(frozen=True)
class PublishedVersion:
    """A registered version.

    Attributes:
        outcome: The trial that it comes from.
        digest: Its bundle's digest.
        refused: Why better trials cannot be served, by run name.
    """

    version: str
    outcome: TrialOutcome
    digest: str
    refused: Mapping[str, str]


def publish(ranked: Sequence[TrialOutcome], sweep: Sweep, report: Reporter) -> PublishedVersion:
    """Register the first of the ranked outcomes that can be served.

    Registration is the last step, after all files have been stored, so that an interruption never
    leaves a version without its bundle.

    Raises:
        ExportError: None can be served; the message gives the reason for each.
    """
    refused: dict[str, str] = {}
    for outcome in ranked:
        assert outcome.trained is not None
        report.exporting(outcome.trial.candidate)
        run = sweep.tracking.reopen(outcome.run_id)
        try:
            bundle, logged = _store_artifacts(outcome, outcome.trained, sweep, run)
        except ExportError as error:
            logger.warning("%s cannot be served: %s", outcome.trial.name, error)
            run.set_tags({EXPORT_ERROR_TAG: str(error)})
            refused[outcome.trial.name] = str(error)
            continue
        report.registering()
        version = _register(outcome, outcome.trained, sweep, bundle, logged)
        return PublishedVersion(version, outcome, bundle.digest, refused)
    raise none_servable(sweep.project, refused)


def none_servable(project: Project, refused: Mapping[str, str]) -> ExportError:
    """The error to raise when no trained model can be served, with the reason for each run."""
    reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
    return ExportError(f"No candidate of '{project.name}' can be served. {reasons}")


def _store_artifacts(
    outcome: TrialOutcome, trained: TrainedModel, sweep: Sweep, run: TrackedRun
) -> tuple[Bundle, LoggedModel]:
    """Store what a version needs in its run: bundle, MLflow model, plots, scaler."""
    signature = _signature(sweep)
    with tempfile.TemporaryDirectory(prefix="tidemill-") as folder:
        bundle = _export(Path(folder, BUNDLE_PATH), outcome, trained, signature, sweep)
        logged = log_model(
            run,
            trained.model,
            signature,
            _inputs(sweep, "train")[:EXAMPLE_ROWS],
            params=trained.params,
            metrics=trained.evaluation.metrics,
        )
        run.log_folder(bundle.path, BUNDLE_PATH)
    run.log_files(_files(outcome, trained, sweep))
    return bundle, logged


def _inputs(sweep: Sweep, part: Literal["train", "test"]) -> Any:
    return input_matrix(getattr(sweep.data, part), sweep.data.inputs, sweep.project)


def _signature(sweep: Sweep) -> Signature:
    """The model's signature.

    With the default preprocessing it is inferred from all rows up to the end of the training
    window, so that a model trained on a window accepts the inputs that earlier versions accepted.
    Other preprocessing may fail on missing values and texts that are not in the window.
    """
    project, data = sweep.project, sweep.data
    rows = (
        data.train
        if data.signature_rows is None or project.preprocess is not None
        else data.signature_rows
    )
    X = input_matrix(rows, data.inputs, project)
    y = target_array(data.train, project)
    return infer_signature(X, y, data.task, project, kinds=data.kinds, dates=data.dates)


def _export(
    folder: Path, outcome: TrialOutcome, trained: TrainedModel, signature: Signature, sweep: Sweep
) -> Bundle:
    source = {
        "run_id": outcome.run_id,
        "candidate": outcome.trial.candidate,
        "data_fingerprint": sweep.data.fingerprint,
        "git_commit": sweep.tags.get("tidemill.git_commit", ""),
    }
    metadata = BundleMetadata(
        sweep.project.name,
        metrics=dict(trained.evaluation.metrics),
        versions=package_versions(),
        source={key: value for key, value in source.items() if value},
    )
    held_out = HeldOutRows(_inputs(sweep, "test"), target_array(sweep.data.test, sweep.project))
    X_train = _inputs(sweep, "train")
    return export_bundle(trained.model, signature, X_train, held_out, folder, metadata)


def _files(outcome: TrialOutcome, trained: TrainedModel, sweep: Sweep) -> dict[str, bytes]:
    """Files of the winner only: metric intervals, curves, calibration, and the fitted scaler."""
    probabilities, labels = trained.predicted.probabilities, trained.labels
    y = target_array(sweep.data.test, sweep.project)
    given = gate.VersionEvidence(trained.predicted.values, probabilities, labels)
    intervals = metric_intervals(sweep.data.task, y, given)
    files = {INTERVALS_FILE: msgspec.json.format(msgspec.json.encode(intervals))}
    if probabilities is not None:
        answers, title = trained.predicted.values, f"{sweep.project.name}: {outcome.trial.name}"
        curves = pictures.plot_roc_pr_curves(y, probabilities, labels, title)
        calibration = pictures.plot_calibration(y, probabilities, answers, labels, title)
        files |= {CURVES_FILE: style.to_png(curves), CALIBRATION_FILE: style.to_png(calibration)}
    scaler = find_scaler(trained.model)
    if scaler is not None:
        files[SCALER_FILE] = pickle.dumps(scaler)
    return files


def _register(
    outcome: TrialOutcome, trained: TrainedModel, sweep: Sweep, bundle: Bundle, logged: LoggedModel
) -> str:
    tags = {
        **sweep.project.tags,
        **{name: sweep.tags[name] for name in VERSION_TAGS if name in sweep.tags},
        BUNDLE_TAG: bundle.digest,
        RUN_TAG: outcome.run_id,
        CANDIDATE_TAG: outcome.trial.candidate,
        STAGE_TAG: "None",
        "tidemill.runtime": bundle.manifest.runtime,
        "tidemill.metric": sweep.metric,
        "tidemill.value": f"{outcome.value:.6g}",
        **_split_tag(sweep),
    }
    version = sweep.tracking.register(
        sweep.project.name,
        source=logged.source,
        run_id=outcome.run_id,
        model_id=logged.id,
        description=sweep.project.description,
        version_description=describe(outcome.trial, trained, sweep.project),
        tags=tags,
    )
    logger.info("%s: version %s is %s", sweep.project.name, version, outcome.trial.name)
    return version


def _split_tag(sweep: Sweep) -> dict[str, str]:
    """The tag that tells a later gate which rows this version was not trained on."""
    data = sweep.data
    cut = cut_of(data.frame, data.test, sweep.project, data.task)
    return {SPLIT_TAG: msgspec.json.encode(cut).decode()} if cut is not None else {}
