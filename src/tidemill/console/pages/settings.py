"""What is configured and by which source, and the keys."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from tidemill.console.page_request import Go, PageRequest, View
from tidemill.errors import RequestError
from tidemill.keyring import SCOPES
from tidemill.serving import settings as serving_settings
from tidemill.settings import describe_settings

UNITS = {"h": 3600, "d": 86400}
LIFETIMES = {"": "never", "1d": "in a day", "30d": "in 30 days", "90d": "in 90 days"}


def settings(request: PageRequest) -> View:
    """The settings in force; the keys for those who may manage them."""
    return View("settings.html", _values(request))


def create_key(request: PageRequest) -> View:
    """Make a key, and show it this once.

    Raises:
        RequestError: No scope, or a lifetime of no known form.
    """
    form = request.form
    scopes = tuple(scope for scope in SCOPES if form.get(f"scope.{scope}") == "yes")
    token, record = request.context.platform.keys.create(
        scopes,
        actor=request.user.actor,
        name=form.get("name", "").strip()[:100],
        lifetime=_lifetime(form.get("expires", "")),
        origin=request.user.address,
    )
    return View("settings.html", {**_values(request), "token": token, "record": record})


def revoke_key(request: PageRequest) -> Go:
    """Take a key away; its sessions end with it."""
    key_id = request.path["id"]
    request.context.platform.keys.revoke(
        key_id,
        actor=request.user.actor,
        origin=request.user.address,
        reason=request.form.get("reason", "").strip() or None,
    )
    return Go(
        "/console/settings", f"Key {key_id} is revoked; servers refuse it within two seconds."
    )


def confirm_revocation(request: PageRequest) -> View:
    """What revoking a key would end."""
    key_id = request.path["id"]
    found = next((k for k in request.context.platform.keys.list() if k.id == key_id), None)
    if found is None:
        raise RequestError(f"There is no key '{key_id}'.", field="id")
    return View("revoke.html", {"key": found, "own": key_id == request.user.key_id})


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
    """The text; of a URL, without the password in it."""
    if "://" not in text or "@" not in text:
        return text
    parts = urlsplit(text)
    if parts.password is None:
        return text
    place = parts.netloc.replace(f":{parts.password}@", ":***@")
    return urlunsplit(parts._replace(netloc=place))


def _lifetime(text: str) -> float | None:
    if not text:
        return None
    match = re.fullmatch(r"(\d{1,4})([hd])", text)
    if match is None:
        raise RequestError(f"'{text}' is no lifetime.", field="expires", expected="12h or 30d")
    return float(match[1]) * UNITS[match[2]]
