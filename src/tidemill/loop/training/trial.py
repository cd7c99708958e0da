"""One trial: fit one setting, evaluate it, and track it as a run."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tidemill.errors import ProjectError
from tidemill.loop.training.provenance import data_used
from tidemill.project import Candidate, Project
from tidemill.signature import Label
from tidemill.steps.data.prepare import PreparedData, input_matrix, target_array
from tidemill.steps.data.preprocessing import build_pipeline
from tidemill.steps.evaluation.evaluate import Evaluation, evaluate
from tidemill.steps.plots import evaluation as pictures
from tidemill.steps.plots import style
from tidemill.steps.search.early_screening import screen
from tidemill.steps.search.epochs import report_epochs
from tidemill.steps.search.fit import PredictResult, fit, predict
from tidemill.steps.search.pruning import Pruning, PruningCallback, TrialPruned
from tidemill.steps.search.search import Trial
from tidemill.stores.mlflow.autolog import autologging
from tidemill.stores.mlflow.tracking import NOTE_TAG, TrackedRun, Tracking

logger = logging.getLogger(__name__)

KIND_TAG, CANDIDATE_TAG = "tidemill.kind", "tidemill.candidate"
WARNINGS_TAG, PRUNED_TAG = "tidemill.warnings", "tidemill.pruned"
MATRIX_FILE, RESIDUALS_FILE = "confusion_matrix.png", "residuals.png"
REPORT_TEXT, REPORT_JSON = "classification_report.txt", "classification_report.json"
WARNINGS_FILE = "warnings.txt"
_UNSET_DEFAULTS = ("deprecated", "warn")  # scikit-learn's defaults that mean "not set"


@dataclass(frozen=True)
class Sweep:
    """What all trials of one training share.

    Attributes:
        metric: The metric that decides which trial is best.
        run: The parent run of the trials.
        tags: Set on every run.
    """

    project: Project
    data: PreparedData
    metric: str
    tracking: Tracking
    run: TrackedRun
    tags: Mapping[str, str]


@dataclass(frozen=True)
class TrainedModel:
    """A fitted model with its predictions for the held-out rows.

    Attributes:
        labels: The classes, in the order of the probabilities; empty for regression.
        params: The estimator's parameters, under the project's names where it has its own.
        seconds: How long fitting took.
        warnings: What fitting and predicting warned about.
    """

    model: Any
    labels: tuple[Label, ...]
    predicted: PredictResult
    evaluation: Evaluation
    params: Mapping[str, Any]
    seconds: float
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class TrialOutcome:
    """The result of a trial: a model, an error, or where it was pruned.

    Attributes:
        value: The deciding metric on held-out rows; None if the trial failed or was pruned.
        trained: The model; None if there is none, or it is no longer needed in memory.
    """

    trial: Trial
    run_id: str
    value: float | None = None
    trained: TrainedModel | None = None
    error: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    pruned: Pruning | None = None


def run_trial(
    trial: Trial,
    sweep: Sweep,
    on_epoch: Callable[[float], None] = lambda share: None,
    callback: PruningCallback | None = None,
) -> TrialOutcome:
    """Fit, evaluate and log one setting as a child run of the sweep's run.

    An exception of the model's own code ends the run as FAILED and is returned as the outcome's
    error. An exception of MLflow is raised, since it would affect the next trial too.

    Args:
        on_epoch: Called with the completed share of a network's epochs, 0 to 1.
        callback: Receives intermediate scores and may prune the trial; its run then ends as
            FINISHED with a tag that says at which step.
    """
    project, tracking = sweep.project, sweep.tracking
    tags = {**sweep.tags, KIND_TAG: "trial", CANDIDATE_TAG: trial.candidate}
    with tracking.run(project.name, trial.name, parent=sweep.run, tags=tags) as run:
        run.log_params(trial.params)
        try:
            screen_trial(trial, sweep.project, sweep.data, sweep.metric, callback)
            with autologging(run) if project.autolog else nullcontext():
                trained = fit_and_evaluate(trial, project, sweep.data, on_epoch, callback)
            value = _deciding_value(trained.evaluation, sweep.metric)
        except TrialPruned as ended:
            run.set_tags({PRUNED_TAG: str(ended), NOTE_TAG: f"Pruned at {ended}."})
            logger.info("%s: %s pruned at %s", project.name, trial.name, ended)
            return TrialOutcome(trial, run.id, pruned=ended.pruning)
        except Exception as error:
            logger.exception("%s: trial %s failed", project.name, trial.name)
            run.fail(error)
            return TrialOutcome(trial, run.id, error=f"{type(error).__name__}: {error}")
        _log_trial(run, trial, project, sweep.data, trained)
    shown = (project.name, trial.name, sweep.metric, value, trained.seconds)
    logger.info("%s: %s: %s %.4f, fitted in %.2f s", *shown)
    return TrialOutcome(trial, run.id, value, trained, metrics=trained.evaluation.metrics)


def all_trials_failed(project: Project, outcomes: Sequence[TrialOutcome]) -> ProjectError:
    """The error to raise when no trial has a model; gives each reason once.

    All trials can only be pruned in a study that prunes its first ones, which ours does not do.
    """
    reasons = dict.fromkeys(
        f"{o.trial.candidate}: {o.error if o.pruned is None else 'pruned'}" for o in outcomes
    )
    return ProjectError(
        f"No candidate of '{project.name}' could be trained. {'; '.join(reasons)}",
        field="candidates",
        remedy="See the tracebacks in their MLflow runs.",
    )


def screen_trial(
    trial: Trial,
    project: Project,
    data: PreparedData,
    metric: str,
    callback: PruningCallback | None,
) -> None:
    """Prune a setting that some passes over part of the training rows show to be clearly behind.

    Raises:
        TrialPruned: It is.
    """
    if callback is not None:
        estimator = project.candidate(trial.candidate).build(**trial.params)
        screen(estimator, project, data, metric, callback)


def fit_and_evaluate(
    trial: Trial,
    project: Project,
    data: PreparedData,
    on_epoch: Callable[[float], None] = lambda share: None,
    callback: PruningCallback | None = None,
) -> TrainedModel:
    """Fit one setting on the training rows and evaluate it on the held-out rows.

    Raises:
        TrialPruned: `callback` ended the fit of a network.
    """
    candidate = project.candidate(trial.candidate)
    estimator = candidate.build(**trial.params)
    all_rows = data.train if project.tensor else data.frame
    rows = input_matrix(all_rows, data.inputs, project)
    pipeline = build_pipeline(estimator, rows, project, dates=data.dates)
    y_train, y_test = target_array(data.train, project), target_array(data.test, project)
    X_train = input_matrix(data.train, data.inputs, project)
    listener = None if callback is None else callback.report
    by_loss = data.task == "regression" or project.gate.metric == "log_loss"
    with report_epochs(pipeline, on_epoch, listener, by_loss=by_loss):
        fitted = fit(pipeline, X_train, y_train, seed=project.seed)
    predicted = predict(fitted.model, input_matrix(data.test, data.inputs, project))
    labels = _labels(fitted.model, y_train) if data.task == "classification" else ()
    return TrainedModel(
        model=fitted.model,
        labels=labels,
        predicted=predicted,
        evaluation=evaluate(data.task, y_test, predicted.values, predicted.probabilities, labels),
        params=_all_params(candidate, estimator, trial),
        seconds=fitted.seconds,
        warnings=(*fitted.warnings, *predicted.warnings),
    )


def _labels(model: Any, y: Any) -> tuple[Label, ...]:
    return tuple(np.asarray(getattr(model, "classes_", np.unique(y))).tolist())


def _all_params(candidate: Candidate, estimator: Any, trial: Trial) -> dict[str, Any]:
    """The estimator's parameters, under the project's names where it has its own."""
    inner = {
        name: value
        for name, value in {**_own_params(estimator), **_defaults(candidate)}.items()
        if isinstance(value, bool | int | float | str) and value not in _UNSET_DEFAULTS
    }
    return {**inner, **candidate.params, **trial.params}


def _own_params(estimator: Any) -> dict[str, Any]:
    own = getattr(estimator, "get_params", None)
    return {} if own is None else dict(own(deep=False))


def _defaults(candidate: Candidate) -> dict[str, Any]:
    """The parameters of a function that builds the estimator; empty for an estimator itself."""
    made_by_function = not hasattr(candidate.estimator, "get_params")
    return (candidate.parameters() or {}) if made_by_function else {}


def _deciding_value(evaluation: Evaluation, metric: str) -> float:
    value = evaluation.metrics.get(metric)
    if value is None:
        raise ProjectError(
            f"The gate decides by {metric}, which this model does not have. It requires "
            "probabilities and held-out rows of at least two classes.",
            field="gate",
            expected=f"one of {', '.join(evaluation.metrics)}",
        )
    return value


def _log_trial(
    run: TrackedRun, trial: Trial, project: Project, data: PreparedData, trained: TrainedModel
) -> None:
    """Log everything that a trial's page shows; cheap enough to do for every trial."""
    facts = {
        "candidate": trial.candidate,
        "dataset_name": data.source,
        "rows_train": len(data.train),
        "rows_test": len(data.test),
        "columns": len(data.inputs),
        "test_size": project.test_size,
        "seed": project.seed,
    }
    # MLflow refuses a second value for a parameter: the model's own have precedence over these
    # facts, and those that autologging has logged stay.
    known = run.params() if project.autolog else trial.params
    all_params = {**facts, **trained.params}
    run.log_params({name: value for name, value in all_params.items() if name not in known})
    run.log_data(data_used(project, data))
    run.log_metrics({**trained.evaluation.metrics, "fit_seconds": trained.seconds})
    run.log_files(_files(trial, project, data, trained))
    if trained.warnings:
        run.set_tags({WARNINGS_TAG: "\n".join(trained.warnings)})
    run.set_tags({NOTE_TAG: describe(trial, trained, project)})


def _files(
    trial: Trial, project: Project, data: PreparedData, trained: TrainedModel
) -> dict[str, bytes]:
    found, title = trained.evaluation, f"{project.name}: {trial.name}"
    files = {}
    if found.confusion is None:
        y = target_array(data.test, project)
        figure = pictures.plot_residuals(y, trained.predicted.values, title, project.target)
        files[RESIDUALS_FILE] = style.to_png(figure)
    else:
        figure = pictures.plot_confusion_matrix(found.confusion, found.labels, title)
        files[MATRIX_FILE] = style.to_png(figure)
        files[REPORT_TEXT] = found.report_text.encode()
        files[REPORT_JSON] = json.dumps(found.report, indent=2).encode()
    if trained.warnings:
        files[WARNINGS_FILE] = "\n".join(trained.warnings).encode()
    return files


def describe(trial: Trial, trained: TrainedModel, project: Project) -> str:
    """A short description of a trial: its settings and its metrics."""
    metrics = ", ".join(f"{key} {value:.4g}" for key, value in trained.evaluation.metrics.items())
    chosen = {**project.candidate(trial.candidate).params, **trial.params}
    settings = ", ".join(f"{key}={value}" for key, value in chosen.items())
    return f"{trial.candidate} with {settings or 'its defaults'}. On held-out rows: {metrics}."
