"""Who may become champion next: what a challenger sees of the traffic, and how it does there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tidemill.console import queries
from tidemill.console.page_request import Go, PageRequest, View
from tidemill.console.pages import contest_text
from tidemill.console.pages.promotion import MOST_REASON
from tidemill.console.render import share
from tidemill.errors import NotFoundError, RequestError, TidemillError
from tidemill.loop.promotion.challenge import Standing, challenge, standing
from tidemill.policies import Challenge, Contest
from tidemill.serving.shelf.traffic_rules import Mode, TrafficRule, read_traffic
from tidemill.steps.gate.canary import MIN_LABELLED, TrafficSample
from tidemill.stores.mlflow.versions import CHALLENGER, ModelVersion

MODES: Mapping[Mode, str] = {
    "canary": "Canary: it answers a share of the callers",
    "shadow": "Shadow: it answers a copy of the requests, unseen",
    "off": "Off: it sees no traffic",
}
USUAL_SHARE = 0.1


def challenger(request: PageRequest) -> View:
    """The page: the challenger, its traffic, the contest."""
    return _page(request, queries.versions(request, request.path["name"]).value or [])


def confirm_traffic(request: PageRequest) -> View:
    """What a share of the traffic for a challenger would change."""
    name = request.path["name"]
    versions = queries.require_versions(request, name)
    try:
        chosen, rule = parse_traffic(versions, request.query)
    except TidemillError as error:
        if isinstance(error, NotFoundError):
            raise
        view = _page(request, versions, error)
        return View(view.template, view.values, error.status)
    flow = queries.traffic(request).value
    return View(
        "traffic.html",
        {
            **_who(request, versions),
            "chosen": chosen,
            "then": rule,
            "modes": MODES,
            "rows": (flow.rows.get(name) if flow else None),
            "policy": _policies(request)[0],
        },
    )


def set_traffic(request: PageRequest) -> Go:
    """Set it; the audit log has it first."""
    name, form, platform = request.path["name"], request.form, request.context.platform
    platform.require_mlflow()
    chosen, rule = parse_traffic(queries.require_versions(request, name), form)
    done = challenge(
        platform.registry,
        platform.settings.shelf,
        name,
        mode=rule.mode,
        share=rule.share,
        version=chosen.number if chosen else None,
        reason=form.get("reason", "").strip()[:MOST_REASON] or None,
        actor=request.user.actor,
        audit=platform.audit.append,
        origin=request.user.address,
    )
    request.context.cache.forget()
    said = {
        "off": "No challenger sees traffic now.",
        "shadow": f"Version {done.version} answers in the champion's shadow.",
        "canary": f"Version {done.version} answers {share(rule.share)} of the callers.",
    }[rule.mode]
    return Go(f"/console/models/{name}/challenger", f"{said} Servers take it up in seconds.")


def parse_traffic(
    versions: list[ModelVersion], given: Mapping[str, str]
) -> tuple[ModelVersion | None, TrafficRule]:
    """The version and the rule that a form asks for; no version where none is to see traffic.

    Raises:
        RequestError: There is no such mode or share, or the version answers already.
        NotFoundError: There is no such version.
    """
    mode = given.get("mode", "canary")
    if mode not in MODES:
        raise RequestError(f"There is no mode '{mode}'.", field="mode", expected=", ".join(MODES))
    if mode == "off":
        return None, TrafficRule()
    part = _share(given.get("share", ""))
    chosen = next((v for v in versions if v.number == given.get("version")), None)
    if chosen is None:
        raise NotFoundError(f"There is no version {given.get('version', '')}.", field="version")
    if chosen is queries.champion_of(versions):
        raise RequestError(
            f"Version {chosen.number} is the champion, which answers already.",
            field="version",
            expected="another version",
        )
    return chosen, TrafficRule(mode, part)  # type: ignore[arg-type]


def _share(text: str) -> float:
    """A share from percent."""
    try:
        percent = float(text.strip().removesuffix("%").strip().replace(",", "."))
    except ValueError:
        percent = float("nan")
    if not 0 < percent <= 100:
        raise RequestError(
            f"'{text.strip()}' is no share of the callers.",
            field="share",
            expected="more than 0 and at most 100 percent",
        )
    return percent / 100


def _page(
    request: PageRequest, versions: list[ModelVersion], problem: TidemillError | None = None
) -> View:
    name = request.path["name"]
    canary, contest = _policies(request)
    who = _who(request, versions)
    found = _standing(request, who["champion"], who["now"])
    return View(
        "challenger.html",
        {
            **who,
            "found": queries.versions(request, name),
            "others": [v for v in versions if v is not who["champion"]],
            "asked": {"mode": "canary", "share": f"{100 * USUAL_SHARE:g}", **request.query},
            "modes": MODES,
            "problem": problem,
            "standing": found,
            "sides": _sides(found),
            "needs": _needs(found, canary),
            "policy": canary,
            "contest": contest_text.shown(request.context.platform.contests.newest(name), contest),
        },
    )


def _who(request: PageRequest, versions: list[ModelVersion]) -> dict[str, Any]:
    """The versions that play a part, and the rule in force."""
    name = request.path["name"]
    served = (queries.served(request).value or {}).get(name) or {}
    return {
        "name": name,
        "champion": queries.champion_of(versions),
        "challenger": next((v for v in versions if CHALLENGER in v.aliases), None),
        "now": read_traffic(request.context.platform.settings.shelf).get(name, TrafficRule()),
        "loaded": served.get("challenger"),
    }


def _policies(request: PageRequest) -> tuple[Challenge, Contest]:
    """The project's; the usual ones where no project here trains the model."""
    known = (queries.projects(request).value or {}).get(request.path["name"])
    return (known.project.challenge, known.project.contest) if known else (Challenge(), Contest())


def _standing(
    request: PageRequest, champion: ModelVersion | None, rule: TrafficRule
) -> Standing | None:
    if champion is None or rule.mode == "off":
        return None
    name, role = request.path["name"], rule.mode
    predictions = request.context.platform.predictions
    ask = lambda: standing(predictions, name, champion.number, role)  # noqa: E731
    return request.context.cache.get(
        ("standing", name, role, champion.number), ask, fresh=5.0
    ).value


def _sides(found: Standing | None) -> list[dict[str, Any]]:
    if found is None:
        return []
    sides = (("Challenger", found.challenger), ("Champion", found.champion))
    return [{"name": name, **_figures(sample)} for name, sample in sides]


def _figures(sample: TrafficSample) -> dict[str, Any]:
    took, losses = sample.milliseconds, sample.losses
    return {
        "answers": int(took.size),
        "p95": float(np.quantile(took, 0.95)) / 1000 if took.size else None,
        "labelled": int(losses.size),
        "loss": float(losses.mean()) if losses.size else None,
    }


def _needs(found: Standing | None, policy: Challenge) -> list[str]:
    """What has to come before its traffic says anything against the challenger."""
    if found is None:
        return []
    sides = (found.challenger, found.champion)
    answers = policy.min_rows - min(s.milliseconds.size for s in sides)
    labels = MIN_LABELLED - min(s.losses.size for s in sides)
    needed = []
    if answers > 0:
        needed.append(f"{answers} more answers before how long it takes is judged.")
    if labels > 0:
        needed.append(f"{labels} more labels on either side before how right it is is judged.")
    return needed
