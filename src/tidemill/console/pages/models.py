"""The page of one model: its versions, and what the gate said of them."""

from __future__ import annotations

from typing import Any

from tidemill.console import monitoring_summary as watching
from tidemill.console import queries as facts
from tidemill.console.page_request import Download, View, Visit
from tidemill.errors import NotFoundError
from tidemill.stores.mlflow.evidence import read_evidence, read_picture
from tidemill.stores.mlflow.versions import PREVIOUS, Version

PICTURES = {
    "confusion_matrix.png": "Confusion matrix",
    "residuals.png": "Residuals",
    "calibration.png": "Calibration",
    "roc_pr_curves.png": "ROC and precision-recall",
}


def models(visit: Visit) -> View:
    """Every model in a list."""
    registered = facts.models(visit)
    served = facts.served(visit).value or {}
    rows = [{"model": model, "served": served.get(model.name)} for model in registered.value or ()]
    return View("models.html", {"registered": registered, "rows": rows})


def model(visit: Visit) -> View:
    """One model."""
    name = visit.path["name"]
    found = facts.versions(visit, name)
    versions = found.value or []
    metrics = facts.shown_metrics(versions)
    champion = facts.champion_of(versions)
    return View(
        "model.html",
        {
            "name": name,
            "found": found,
            "versions": versions,
            "metrics": metrics,
            "best": {metric: facts.best_of(versions, metric) for metric in metrics},
            "champion": champion,
            "previous": next((v for v in versions if PREVIOUS in v.aliases), None),
            "served": (facts.served(visit).value or {}).get(name),
            "links": {v.number: facts.run_link(visit, v.run_id) for v in versions},
            "evidence": evidence_of(visit, champion),
            "decision": facts.last_decision(visit.desk.platform.audit, name),
            "trigger": watching.newest_trigger(visit, name),
            "trainable": name in (facts.projects(visit).value or {}),
        },
    )


def evidence_of(visit: Visit, version: Version | None) -> dict[str, Any] | None:
    """What the gate looked at when it judged a version; None where it never did."""
    if version is None or not version.tags.get("tidemill.gate.verdict"):
        return None
    platform, run, number = visit.desk.platform, version.run_id, version.number
    key = ("evidence", version.name, number, version.tags["tidemill.gate.verdict"])
    try:
        asked = visit.desk.recent.get(
            key, lambda: read_evidence(platform.tracking, run, number), fresh=60.0
        )
    except NotFoundError:
        return None
    return asked.value


def picture(visit: Visit) -> Download:
    """A picture that training left in the version's run."""
    name, number, file = visit.path["name"], visit.path["version"], visit.path["file"]
    if file not in PICTURES:
        raise NotFoundError(f"There is no picture '{file}'.")
    platform = visit.desk.platform
    run = platform.registry.version(name, number).run_id
    return Download(file, "image/png", iter([read_picture(platform.tracking, run, file)]))
