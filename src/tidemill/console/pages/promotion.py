"""Who serves: each step shows first what will change, and is taken through the loop's own verbs."""

from __future__ import annotations

from functools import partial
from typing import Any

from tidemill.console import queries
from tidemill.console.page_request import Go, PageRequest, View
from tidemill.console.pages.models import evidence_of
from tidemill.errors import NotFoundError
from tidemill.loop.promotion.promote import promote, rollback, transition
from tidemill.project import Gate, Project
from tidemill.stores.mlflow.versions import CHALLENGER, PREVIOUS

MOST_REASON = 2_000


def confirm_promotion(request: PageRequest) -> View:
    """What a promotion would change."""
    name = request.path["name"]
    versions = queries.require_versions(request, name)
    champion = queries.champion_of(versions)
    wanted = request.query.get("version")
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
            "metrics": queries.shown_metrics(versions, 6),
            "gate": _gate(request, name),
            "verdict": None,
            "reason": "",
            "evidence": evidence_of(request, chosen),
        },
    )


def promote_version(request: PageRequest) -> Go | View:
    """Promote through the gate, or with a reason and the box ticked, whatever it says."""
    name, form = request.path["name"], request.form
    platform = request.context.platform
    platform.require_mlflow()
    version, force = form.get("version") or None, form.get("force") == "yes"
    reason = form.get("reason", "").strip()[:MOST_REASON] or None
    verdict = promote(
        _project(request, name),
        platform.registry,
        name,
        version=version,
        force=force,
        reason=reason,
        actor=request.user.actor,
        audit=partial(platform.audit_transition, origin=request.user.address),
    )
    request.context.cache.forget()
    if verdict.promoted:
        how = "by override" if verdict.forced else "through the gate"
        said = f"Version {verdict.version} is champion now, {how}. Servers take it up in seconds."
        return Go(f"/console/models/{name}", said)
    view = confirm_promotion(PageRequest(**{**vars(request), "query": {"version": version or ""}}))
    values = {**view.values, "verdict": verdict, "reason": reason or ""}
    return View(view.template, values, status=409)


def confirm_rollback(request: PageRequest) -> View:
    """What a rollback would change."""
    name = request.path["name"]
    versions = queries.require_versions(request, name)
    return View(
        "rollback.html",
        {
            "name": name,
            "champion": queries.champion_of(versions),
            "previous": next((v for v in versions if PREVIOUS in v.aliases), None),
            "metrics": queries.shown_metrics(versions, 6),
        },
    )


def roll_back(request: PageRequest) -> Go:
    """Make the champion before champion again."""
    name, platform = request.path["name"], request.context.platform
    platform.require_mlflow()
    done = rollback(
        platform.registry,
        name,
        reason=request.form.get("reason", "").strip()[:MOST_REASON] or None,
        actor=request.user.actor,
        audit=partial(platform.audit_transition, origin=request.user.address),
    )
    request.context.cache.forget()
    return Go(f"/console/models/{name}", f"Version {done.version} is champion again.")


def confirm_stage(request: PageRequest) -> View:
    """What making a version challenger, or archiving it, would change."""
    name, number = request.path["name"], request.path["version"]
    versions = queries.require_versions(request, name)
    chosen = next((v for v in versions if v.number == number), None)
    if chosen is None:
        raise NotFoundError(f"'{name}' has no version {number}.", field="version")
    challenger = next((v for v in versions if CHALLENGER in v.aliases), None)
    return View("stage.html", {"name": name, "chosen": chosen, "challenger": challenger})


def set_stage(request: PageRequest) -> Go:
    """Move a version to Staging, Archived or None."""
    name, number = request.path["name"], request.path["version"]
    platform = request.context.platform
    platform.require_mlflow()
    done = transition(
        platform.registry,
        name,
        number,
        request.form.get("stage", ""),
        reason=request.form.get("reason", "").strip()[:MOST_REASON] or None,
        actor=request.user.actor,
        audit=partial(platform.audit_transition, origin=request.user.address),
    )
    request.context.cache.forget()
    return Go(f"/console/models/{name}", f"Version {number} is in stage {done.stage} now.")


def _project(request: PageRequest, name: str) -> Project | None:
    """The model's project; None for a model that others registered."""
    try:
        return request.context.platform.projects.get(name).project
    except NotFoundError:
        return None


def _gate(request: PageRequest, name: str) -> Gate:
    known: dict[str, Any] = queries.projects(request).value or {}
    return known[name].project.gate if name in known else Gate()
