"""The list of models, and the page of one model with its versions and gate evidence."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from tidemill.console import monitoring_summary, queries
from tidemill.console.page_request import PageRequest
from tidemill.console.responses import download, show_page
from tidemill.errors import NotFoundError
from tidemill.stores.mlflow.evidence import read_evidence, read_picture
from tidemill.stores.mlflow.versions import PREVIOUS, ModelVersion

PICTURES = {
    "confusion_matrix.png": "Confusion matrix",
    "residuals.png": "Residuals",
    "calibration.png": "Calibration",
    "roc_pr_curves.png": "ROC and precision-recall",
}


def models(request: PageRequest) -> Response:
    """All registered models."""
    registered = queries.models(request)
    served = queries.served(request).value or {}
    rows = [{"model": model, "served": served.get(model.name)} for model in registered.value or ()]
    return show_page(request, "models.html", {"registered": registered, "rows": rows})


def model(request: PageRequest) -> Response:
    """One model."""
    name = request.path_params["name"]
    found = queries.versions(request, name)
    versions = found.value or []
    metrics = queries.shown_metrics(versions)
    champion = queries.champion_of(versions)
    return show_page(
        request,
        "model.html",
        {
            "name": name,
            "found": found,
            "versions": versions,
            "metrics": metrics,
            "best": {metric: queries.best_of(versions, metric) for metric in metrics},
            "champion": champion,
            "previous": next((v for v in versions if PREVIOUS in v.aliases), None),
            "served": (queries.served(request).value or {}).get(name),
            "links": {v.number: queries.run_link(request, v.run_id) for v in versions},
            "evidence": evidence_of(request, champion),
            "decision": queries.last_decision(request.context.platform.audit, name),
            "trigger": monitoring_summary.newest_trigger(request, name),
            "trainable": name in (queries.projects(request).value or {}),
        },
    )


def evidence_of(request: PageRequest, version: ModelVersion | None) -> dict[str, Any] | None:
    """The evidence of the gate's last verdict on a version; None if there was none."""
    if version is None or not version.tags.get("tidemill.gate.verdict"):
        return None
    platform, run, number = request.context.platform, version.run_id, version.number
    key = ("evidence", version.name, number, version.tags["tidemill.gate.verdict"])
    try:
        evidence = request.context.cache.get(
            key, lambda: read_evidence(platform.tracking, run, number), fresh=60.0
        )
    except NotFoundError:
        return None
    return evidence.value


def picture(request: PageRequest) -> Response:
    """A picture from the version's run."""
    name, number, file = (
        request.path_params["name"],
        request.path_params["version"],
        request.path_params["file"],
    )
    if file not in PICTURES:
        raise NotFoundError(f"There is no picture '{file}'.")
    platform = request.context.platform
    run = platform.registry.version(name, number).run_id
    return download(file, "image/png", iter([read_picture(platform.tracking, run, file)]))
