"""The settings with their sources, and the API keys."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from starlette.responses import Response

from tidemill.console.page_request import PageRequest
from tidemill.console.responses import redirect, show_page
from tidemill.errors import RequestError
from tidemill.keyring import SCOPES
from tidemill.serving import settings as serving_settings
from tidemill.settings import describe_settings

UNITS = {"h": 3600, "d": 86400}
LIFETIMES = {"": "never", "1d": "in a day", "30d": "in 30 days", "90d": "in 90 days"}


def settings(request: PageRequest) -> Response:
    """The settings in force, and the keys if the user may manage them."""
    return show_page(request, "settings.html", _values(request))


def create_key(request: PageRequest) -> Response:
    """Create a key, and show it this once.

    Raises:
        RequestError: No scope is chosen, or the lifetime is invalid.
    """
    form = request.form_fields
    scopes = tuple(scope for scope in SCOPES if form.get(f"scope.{scope}") == "yes")
    token, record = request.context.platform.keys.create(
        scopes,
        actor=request.user.actor,
        name=form.get("name", "").strip()[:100],
        lifetime=_lifetime(form.get("expires", "")),
        origin=request.user.address,
    )
    return show_page(
        request, "settings.html", {**_values(request), "token": token, "record": record}
    )


def revoke_key(request: PageRequest) -> Response:
    """Revoke a key, which ends its sessions."""
    key_id = request.path_params["id"]
    request.context.platform.keys.revoke(
        key_id,
        actor=request.user.actor,
        origin=request.user.address,
        reason=request.form_fields.get("reason", "").strip() or None,
    )
    return redirect(
        request,
        "/console/settings",
        f"Key {key_id} is revoked; servers refuse it within two seconds.",
    )


def confirm_revocation(request: PageRequest) -> Response:
    """Show what revoking a key changes."""
    key_id = request.path_params["id"]
    found = next((k for k in request.context.platform.keys.list() if k.id == key_id), None)
    if found is None:
        raise RequestError(f"There is no key '{key_id}'.", field="id")
    return show_page(request, "revoke.html", {"key": found, "own": key_id == request.user.key_id})


def _values(request: PageRequest) -> dict[str, Any]:
    platform = request.context.platform
    admin = request.user.allows("admin")
    return {
        "control": [
            {**row, "value": without_password(row["value"])}
            for row in describe_settings(platform.settings)
        ],
        "serving": [
            {"variable": name, "default": default, "words": words}
            for name, default, words in serving_settings.variables()
        ],
        "keys": platform.keys.list() if admin else None,
        "scopes": SCOPES,
        "lifetimes": LIFETIMES,
        "token": None,
        "record": None,
    }


def without_password(text: str) -> str:
    """The text; a URL without its password."""
    if "://" not in text or "@" not in text:
        return text
    parts = urlsplit(text)
    if parts.password is None:
        return text
    netloc = parts.netloc.replace(f":{parts.password}@", ":***@")
    return urlunsplit(parts._replace(netloc=netloc))


def _lifetime(text: str) -> float | None:
    if not text:
        return None
    match = re.fullmatch(r"(\d{1,4})([hd])", text)
    if match is None:
        raise RequestError(f"'{text}' is not a lifetime.", field="expires", expected="12h or 30d")
    return float(match[1]) * UNITS[match[2]]
