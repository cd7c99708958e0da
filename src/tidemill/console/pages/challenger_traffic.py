"""Change a challenger's traffic: first show what will change, then set it."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response

from tidemill.console import queries
from tidemill.console.page_request import PageRequest
from tidemill.console.pages.challenger import MODES, policies, show_challenger, traffic_state
from tidemill.console.pages.promotion import reason_of
from tidemill.console.render import share
from tidemill.console.responses import redirect, show_page
from tidemill.errors import NotFoundError, RequestError, TidemillError
from tidemill.loop.promotion.challenge import challenge
from tidemill.serving.shelf.traffic_rules import TrafficRule
from tidemill.stores.mlflow.versions import ModelVersion


def confirm_traffic(request: PageRequest) -> Response:
    """Show what a traffic rule would change."""
    name = request.path_params["name"]
    versions = queries.require_versions(request, name)
    try:
        chosen, rule = parse_traffic(versions, request.query)
    except NotFoundError:
        raise
    except TidemillError as error:
        return show_challenger(request, versions, error)
    flow = queries.traffic(request).value
    values = {
        **traffic_state(request, versions),
        "chosen": chosen,
        "then": rule,
        "modes": MODES,
        "rows": (flow.rows.get(name) if flow else None),
        "policy": policies(request)[0],
    }
    return show_page(request, "traffic.html", values)


def set_traffic(request: PageRequest) -> Response:
    """Set the traffic rule, recorded in the audit log."""
    name, form, platform = (
        request.path_params["name"],
        request.form_fields,
        request.context.platform,
    )
    platform.require_mlflow()
    chosen, rule = parse_traffic(queries.require_versions(request, name), form)
    done = challenge(
        platform.registry,
        platform.settings.shelf,
        name,
        mode=rule.mode,
        share=rule.share,
        version=chosen.number if chosen else None,
        reason=reason_of(request),
        actor=request.user.actor,
        audit=platform.audit.append,
        origin=request.user.address,
    )
    request.context.cache.clear()
    message = {
        "off": "No challenger receives traffic now.",
        "shadow": f"Version {done.version} runs as a shadow of the champion.",
        "canary": f"Version {done.version} answers {share(rule.share)} of the callers.",
    }[rule.mode]
    return redirect(
        request,
        f"/console/models/{name}/challenger",
        f"{message} Servers apply this within seconds.",
    )


def parse_traffic(
    versions: list[ModelVersion], given: Mapping[str, str]
) -> tuple[ModelVersion | None, TrafficRule]:
    """The version and the traffic rule in a form; no version if the mode is off.

    Raises:
        RequestError: The mode or the share is invalid, or the version is the champion.
        NotFoundError: There is no such version.
    """
    mode = given.get("mode", "canary")
    if mode not in MODES:
        raise RequestError(f"There is no mode '{mode}'.", field="mode", expected=", ".join(MODES))
    if mode == "off":
        return None, TrafficRule()
    part = _parse_share(given.get("share", ""))
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


def _parse_share(text: str) -> float:
    """A share, 0 to 1, from a percentage."""
    try:
        percent = float(text.strip().removesuffix("%").strip().replace(",", "."))
    except ValueError:
        percent = float("nan")
    if not 0 < percent <= 100:
        raise RequestError(
            f"'{text.strip()}' is not a share of the callers.",
            field="share",
            expected="more than 0 and at most 100 percent",
        )
    return percent / 100
