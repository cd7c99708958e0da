"""One trial: fit one setting, see how good it is, and track it as a run of its own."""

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
_UNSET_DEFAULTS = ("deprecated", "warn")  # defaults with which scikit-learn says "not given"


@dataclass(frozen=True)
class Sweep:
    """What all trials of one training share: the project and its data, and where they are tracked.

    `metric` decides which trial is best; `tags` go on every run.
    """

    project: Project
    data: PreparedData
    metric: str
    tracking: Tracking
    run: TrackedRun
    tags: Mapping[str, str]


@dataclass(frozen=True)
class TrainedModel:
    """A fitted model with its answers to the held-out rows."""

    model: Any
    labels: tuple[Label, ...]
    predicted: PredictResult
    evaluation: Evaluation
    params: Mapping[str, Any]
    seconds: float
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class TrialOutcome:
    """How a trial went: `learned` and `value` (of the deciding metric), or why there are none.

    That is the `error`, or when it was `pruned`.
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
    tell: Callable[[float], None] = lambda share: None,
    watch: PruningCallback | None = None,
) -> TrialOutcome:
    """Fit, evaluate and log one setting as a child run of the sweep's.

    What the model's own code raises ends this run as FAILED and is returned as the outcome's error;
    what MLflow raises comes through, because it would meet the next trial too.

    Args:
        tell: Hears the share of a network's epochs that is done.
        watch: Hears how good the setting is while it learns, and may end it: the run then ends
            FINISHED, with a tag that says when.
    """
    project, tracking = sweep.project, sweep.tracking
    marks = {**sweep.tags, KIND_TAG: "trial", CANDIDATE_TAG: trial.candidate}
    with tracking.run(project.name, trial.name, parent=sweep.run, tags=marks) as run:
        run.log_params(trial.params)
        try:
            screen_trial(trial, sweep.project, sweep.data, sweep.metric, watch)
            with autologging(tracking, run) if project.autolog else nullcontext():
                learned = fit_and_evaluate(trial, project, sweep.data, tell, watch)
            value = _deciding(learned.evaluation, sweep.metric)
        except TrialPruned as ended:
            run.set_tags({PRUNED_TAG: str(ended), NOTE_TAG: f"Given up early, at {ended}."})
            logger.info("%s: %s is pruned at %s", project.name, trial.name, ended)
            return TrialOutcome(trial, run.id, pruned=ended.pruning)
        except Exception as error:
            logger.exception("%s: trial %s failed", project.name, trial.name)
            run.fail(error)
            return TrialOutcome(trial, run.id, error=f"{type(error).__name__}: {error}")
        _log(run, trial, project, sweep.data, learned)
    said = (project.name, trial.name, sweep.metric, value, learned.seconds)
    logger.info("%s: %s has %s %.4f after %.2f s", *said)
    return TrialOutcome(trial, run.id, value, learned, metrics=learned.evaluation.metrics)


def all_trials_failed(project: Project, outcomes: Sequence[TrialOutcome]) -> ProjectError:
    """What to say when no trial has a model; each reason once.

    That all were pruned takes a study that prunes its first trials, which ours does not.
    """
    reasons = dict.fromkeys(
        f"{o.trial.candidate}: {o.error if o.pruned is None else 'pruned'}" for o in outcomes
    )
    return ProjectError(
        f"No candidate of '{project.name}' could be trained. {'; '.join(reasons)}",
        field="candidates",
        remedy="Their runs in MLflow hold the tracebacks.",
    )


def screen_trial(
    trial: Trial, project: Project, data: PreparedData, metric: str, watch: PruningCallback | None
) -> None:
    """See on some of the training rows whether the setting is worth a fit.

    Raises:
        Pruned: It is not.
    """
    if watch is not None:
        estimator = project.candidate(trial.candidate).build(**trial.params)
        screen(estimator, project, data, metric, watch)


def fit_and_evaluate(
    trial: Trial,
    project: Project,
    data: PreparedData,
    tell: Callable[[float], None] = lambda share: None,
    watch: PruningCallback | None = None,
) -> TrainedModel:
    """Fit one setting on the training rows and evaluate it on the held-out ones.

    Raises:
        Pruned: `watch` ended the fit of a network.
    """
    candidate = project.candidate(trial.candidate)
    estimator = candidate.build(**trial.params)
    everything = data.train if project.tensor else data.frame
    pipeline = build_pipeline(estimator, input_matrix(everything, data.inputs, project), project)
    y_train, y_test = target_array(data.train, project), target_array(data.test, project)
    X_train = input_matrix(data.train, data.inputs, project)
    listener = None if watch is None else watch.report
    by_loss = data.task == "regression" or project.gate.metric == "log_loss"
    with report_epochs(pipeline, tell, listener, by_loss=by_loss):
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
    """What the estimator was made with, under the project's own names where it has any."""
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
    """What a function that makes the estimator takes; an estimator tells its parameters itself."""
    made_by_function = not hasattr(candidate.estimator, "get_params")
    return (candidate.parameters() or {}) if made_by_function else {}


def _deciding(evaluation: Evaluation, metric: str) -> float:
    value = evaluation.metrics.get(metric)
    if value is None:
        raise ProjectError(
            f"The gate decides by {metric}, which needs what this model does not give: "
            "probabilities, and rows of at least two classes held out.",
            field="gate",
            expected=f"one of {', '.join(evaluation.metrics)}",
        )
    return value


def _log(
    run: TrackedRun, trial: Trial, project: Project, data: PreparedData, learned: TrainedModel
) -> None:
    """Everything a trial's page shows; cheap enough to do for every one of them."""
    facts = {
        "candidate": trial.candidate,
        "dataset_name": data.source,
        "rows_train": len(data.train),
        "rows_test": len(data.test),
        "columns": len(data.inputs),
        "test_size": project.test_size,
        "seed": project.seed,
    }
    # MLflow refuses a second value for a name: a model's own parameter comes before a fact of ours,
    # and what autologging has written stays.
    known = run.params() if project.autolog else trial.params
    all_params = {**facts, **learned.params}
    run.log_params({name: value for name, value in all_params.items() if name not in known})
    run.log_data(data_used(project, data))
    run.log_metrics({**learned.evaluation.metrics, "fit_seconds": learned.seconds})
    run.log_files(_files(trial, project, data, learned))
    if learned.warnings:
        run.set_tags({WARNINGS_TAG: "\n".join(learned.warnings)})
    run.set_tags({NOTE_TAG: describe(trial, learned, project)})


def _files(
    trial: Trial, project: Project, data: PreparedData, learned: TrainedModel
) -> dict[str, bytes]:
    found, title = learned.evaluation, f"{project.name}: {trial.name}"
    files = {}
    if found.confusion is None:
        y = target_array(data.test, project)
        figure = pictures.plot_residuals(y, learned.predicted.values, title, project.target)
        files[RESIDUALS_FILE] = style.to_png(figure)
    else:
        figure = pictures.plot_confusion_matrix(found.confusion, found.labels, title)
        files[MATRIX_FILE] = style.to_png(figure)
        files[REPORT_TEXT] = found.report_text.encode()
        files[REPORT_JSON] = json.dumps(found.report, indent=2).encode()
    if learned.warnings:
        files[WARNINGS_FILE] = "\n".join(learned.warnings).encode()
    return files


def describe(trial: Trial, learned: TrainedModel, project: Project) -> str:
    """One sentence for people: what was fitted, and how good it is."""
    metrics = ", ".join(f"{key} {value:.4g}" for key, value in learned.evaluation.metrics.items())
    chosen = {**project.candidate(trial.candidate).params, **trial.params}
    settings = ", ".join(f"{key}={value}" for key, value in chosen.items())
    return f"{trial.candidate} with {settings or 'its defaults'}. On held-out rows: {metrics}."
