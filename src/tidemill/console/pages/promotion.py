"""Who serves: each step shows first what will change, and is taken through the loop's own verbs."""

from __future__ import annotations

from functools import partial
from typing import Any

from tidemill.console import queries as facts
from tidemill.console.page_request import Go, View, Visit
from tidemill.console.pages.models import evidence_of
from tidemill.errors import NotFoundError
from tidemill.loop.promotion.promote import promote, rollback, transition
from tidemill.project import Gate, Project
from tidemill.stores.mlflow.versions import CHALLENGER, PREVIOUS

MOST_REASON = 2_000


def ask_promote(visit: Visit) -> View:
    """What a promotion would change."""
    name = visit.path["name"]
    versions = facts.sure_versions(visit, name)
    champion = facts.champion_of(versions)
    wanted = visit.query.get("version")
    chosen = next((v for v in versions if v.number == wanted), None)
    if wanted and chosen is None:
        raise NotFoundError(f"'{name}' has no version {wanted}.", field="version")
    return View(
        "promote.html",
        {
            "name": name,
            "champion": champion,
            "chosen": chosen,
            "versions": [v for v in versions if v is not champion],
            "metrics": facts.shown_metrics(versions, 6),
            "gate": _gate(visit, name),
            "verdict": None,
            "reason": "",
            "evidence": evidence_of(visit, chosen),
        },
    )


def do_promote(visit: Visit) -> Go | View:
    """Promote through the gate, or with a reason and the box ticked, whatever it says."""
    name, form = visit.path["name"], visit.form
    platform = visit.desk.platform
    platform.require_mlflow()
    version, force = form.get("version") or None, form.get("force") == "yes"
    reason = form.get("reason", "").strip()[:MOST_REASON] or None
    verdict = promote(
        _project(visit, name),
        platform.registry,
        name,
        version=version,
        force=force,
        reason=reason,
        actor=visit.visitor.actor,
        audit=partial(platform.audit_transition, origin=visit.visitor.address),
    )
    visit.desk.recent.forget()
    if verdict.promoted:
        how = "by override" if verdict.forced else "through the gate"
        said = f"Version {verdict.version} is champion now, {how}. Servers take it up in seconds."
        return Go(f"/console/models/{name}", said)
    view = ask_promote(Visit(**{**vars(visit), "query": {"version": version or ""}}))
    values = {**view.values, "verdict": verdict, "reason": reason or ""}
    return View(view.template, values, status=409)


def ask_rollback(visit: Visit) -> View:
    """What a rollback would change."""
    name = visit.path["name"]
    versions = facts.sure_versions(visit, name)
    return View(
        "rollback.html",
        {
            "name": name,
            "champion": facts.champion_of(versions),
            "previous": next((v for v in versions if PREVIOUS in v.aliases), None),
            "metrics": facts.shown_metrics(versions, 6),
        },
    )


def do_rollback(visit: Visit) -> Go:
    """Make the champion before champion again."""
    name, platform = visit.path["name"], visit.desk.platform
    platform.require_mlflow()
    done = rollback(
        platform.registry,
        name,
        reason=visit.form.get("reason", "").strip()[:MOST_REASON] or None,
        actor=visit.visitor.actor,
        audit=partial(platform.audit_transition, origin=visit.visitor.address),
    )
    visit.desk.recent.forget()
    return Go(f"/console/models/{name}", f"Version {done.version} is champion again.")


def ask_stage(visit: Visit) -> View:
    """What making a version challenger, or archiving it, would change."""
    name, number = visit.path["name"], visit.path["version"]
    versions = facts.sure_versions(visit, name)
    chosen = next((v for v in versions if v.number == number), None)
    if chosen is None:
        raise NotFoundError(f"'{name}' has no version {number}.", field="version")
    challenger = next((v for v in versions if CHALLENGER in v.aliases), None)
    return View("stage.html", {"name": name, "chosen": chosen, "challenger": challenger})


def do_stage(visit: Visit) -> Go:
    """Move a version to Staging, Archived or None."""
    name, number = visit.path["name"], visit.path["version"]
    platform = visit.desk.platform
    platform.require_mlflow()
    done = transition(
        platform.registry,
        name,
        number,
        visit.form.get("stage", ""),
        reason=visit.form.get("reason", "").strip()[:MOST_REASON] or None,
        actor=visit.visitor.actor,
        audit=partial(platform.audit_transition, origin=visit.visitor.address),
    )
    visit.desk.recent.forget()
    return Go(f"/console/models/{name}", f"Version {number} is in stage {done.stage} now.")


def _project(visit: Visit, name: str) -> Project | None:
    """The model's project; None for a model that others registered."""
    try:
        return visit.desk.platform.projects.get(name).project
    except NotFoundError:
        return None


def _gate(visit: Visit, name: str) -> Gate:
    known: dict[str, Any] = facts.projects(visit).value or {}
    return known[name].project.gate if name in known else Gate()
