"""What is configured and by which source, and the keys."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from tidemill.console.page_request import Go, View, Visit
from tidemill.errors import RequestError
from tidemill.keyring import SCOPES
from tidemill.serving import settings as serving_settings
from tidemill.settings import sources

UNITS = {"h": 3600, "d": 86400}
LIFETIMES = {"": "never", "1d": "in a day", "30d": "in 30 days", "90d": "in 90 days"}


def settings(visit: Visit) -> View:
    """The settings in force; the keys for those who may manage them."""
    return View("settings.html", _values(visit))


def create_key(visit: Visit) -> View:
    """Make a key, and show it this once.

    Raises:
        RequestError: No scope, or a lifetime of no known form.
    """
    form = visit.form
    scopes = tuple(scope for scope in SCOPES if form.get(f"scope.{scope}") == "yes")
    token, record = visit.desk.platform.keys.create(
        scopes,
        actor=visit.visitor.actor,
        name=form.get("name", "").strip()[:100],
        lifetime=_lifetime(form.get("expires", "")),
        origin=visit.visitor.address,
    )
    return View("settings.html", {**_values(visit), "token": token, "record": record})


def revoke_key(visit: Visit) -> Go:
    """Take a key away; its sessions end with it."""
    key_id = visit.path["id"]
    visit.desk.platform.keys.revoke(
        key_id,
        actor=visit.visitor.actor,
        origin=visit.visitor.address,
        reason=visit.form.get("reason", "").strip() or None,
    )
    return Go(
        "/console/settings", f"Key {key_id} is revoked; servers refuse it within two seconds."
    )


def ask_revoke(visit: Visit) -> View:
    """What revoking a key would end."""
    key_id = visit.path["id"]
    found = next((k for k in visit.desk.platform.keys.list() if k.id == key_id), None)
    if found is None:
        raise RequestError(f"There is no key '{key_id}'.", field="id")
    return View("revoke.html", {"key": found, "own": key_id == visit.visitor.key_id})


def _values(visit: Visit) -> dict[str, Any]:
    platform = visit.desk.platform
    admin = visit.visitor.allows("admin")
    return {
        "control": [
            {**row, "value": without_password(row["value"])} for row in sources(platform.settings)
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
