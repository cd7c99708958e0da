"""Promote, roll back, or move a version: first show what will change, then do it."""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.responses import Response

from tidemill.console import queries
from tidemill.console.page_request import PageRequest
from tidemill.console.pages.models import evidence_of
from tidemill.console.responses import redirect, show_page
from tidemill.errors import NotFoundError
from tidemill.loop.promotion.promote import promote
from tidemill.loop.promotion.transitions import AuditTransition, rollback, transition
from tidemill.project import Gate, Project
from tidemill.stores.mlflow.versions import CHALLENGER, PREVIOUS

MAX_REASON = 2_000


def confirm_promotion(request: PageRequest) -> Response:
    """Show what a promotion would change."""
    values = _promotion_values(request, request.query.get("version"))
    return show_page(request, "promote.html", values)


def promote_version(request: PageRequest) -> Response:
    """Promote through the gate, or with a reason and the box ticked, override it."""
    name, form = request.path_params["name"], request.form_fields
    platform = request.context.platform
    platform.require_mlflow()
    version, reason = form.get("version") or None, reason_of(request)
    verdict = promote(
        _project(request, name),
        platform.registry,
        name,
        version=version,
        force=form.get("force") == "yes",
        reason=reason,
        actor=request.user.actor,
        audit=_audit(request),
    )
    request.context.cache.clear()
    if verdict.promoted:
        how = "by override" if verdict.forced else "through the gate"
        message = f"Version {verdict.version} is champion now, {how}. Servers apply it in seconds."
        return redirect(request, f"/console/models/{name}", message)
    values = {
        **_promotion_values(request, version),
        "verdict": verdict,
        "reason": reason or "",
    }
    return show_page(request, "promote.html", values, status=409)


def confirm_rollback(request: PageRequest) -> Response:
    """Show what a rollback would change."""
    name = request.path_params["name"]
    versions = queries.require_versions(request, name)
    values = {
        "name": name,
        "champion": queries.champion_of(versions),
        "previous": next((v for v in versions if PREVIOUS in v.aliases), None),
        "metrics": queries.shown_metrics(versions, 6),
    }
    return show_page(request, "rollback.html", values)


def roll_back(request: PageRequest) -> Response:
    """Roll back to the previous champion."""
    name, platform = request.path_params["name"], request.context.platform
    platform.require_mlflow()
    done = rollback(
        platform.registry,
        name,
        reason=reason_of(request),
        actor=request.user.actor,
        audit=_audit(request),
    )
    request.context.cache.clear()
    message = f"Rolled back: version {done.version} is champion again."
    return redirect(request, f"/console/models/{name}", message)


def confirm_stage(request: PageRequest) -> Response:
    """Show what making a version challenger, or archiving it, would change."""
    name, number = request.path_params["name"], request.path_params["version"]
    versions = queries.require_versions(request, name)
    chosen = next((v for v in versions if v.number == number), None)
    if chosen is None:
        raise NotFoundError(f"'{name}' has no version {number}.", field="version")
    challenger = next((v for v in versions if CHALLENGER in v.aliases), None)
    values = {"name": name, "chosen": chosen, "challenger": challenger}
    return show_page(request, "stage.html", values)


def set_stage(request: PageRequest) -> Response:
    """Move a version to Staging, Archived or None."""
    name, number = request.path_params["name"], request.path_params["version"]
    platform = request.context.platform
    platform.require_mlflow()
    done = transition(
        platform.registry,
        name,
        number,
        request.form_fields.get("stage", ""),
        reason=reason_of(request),
        actor=request.user.actor,
        audit=_audit(request),
    )
    request.context.cache.clear()
    message = f"Version {number} is in stage {done.stage} now."
    return redirect(request, f"/console/models/{name}", message)


def reason_of(request: PageRequest) -> str | None:
    """The reason in the form, cut to its maximum length; None if it is empty."""
    return request.form_fields.get("reason", "").strip()[:MAX_REASON] or None


def _audit(request: PageRequest) -> AuditTransition:
    return partial(request.context.platform.audit_transition, origin=request.user.address)


def _promotion_values(request: PageRequest, number: str | None) -> dict[str, Any]:
    """What the promotion form shows.

    Raises:
        NotFoundError: There is no version of that number.
    """
    name = request.path_params["name"]
    versions = queries.require_versions(request, name)
    champion = queries.champion_of(versions)
    chosen = next((v for v in versions if v.number == number), None)
    if number and chosen is None:
        raise NotFoundError(f"'{name}' has no version {number}.", field="version")
    return {
        "name": name,
        "champion": champion,
        "chosen": chosen,
        "versions": [v for v in versions if v is not champion],
        "metrics": queries.shown_metrics(versions, 6),
        "gate": _gate(request, name),
        "verdict": None,
        "reason": "",
        "evidence": evidence_of(request, chosen),
    }


def _project(request: PageRequest, name: str) -> Project | None:
    """The model's project; None for a model that another program registered."""
    try:
        return request.context.platform.projects.get(name).project
    except NotFoundError:
        return None


def _gate(request: PageRequest, name: str) -> Gate:
    known: dict[str, Any] = queries.projects(request).value or {}
    return known[name].project.gate if name in known else Gate()
