"""What the routes of one application share."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from tidemill.api.metrics import ApiMetrics
from tidemill.platform import Platform
from tidemill.stores.api_keys import WatchedKeyring
from tidemill.stores.rate_limits import RateLimits


@dataclass(frozen=True)
class ApiState:
    """Kept in `app.state.tidemill`, made by `create_app`."""

    platform: Platform
    keyring: WatchedKeyring
    limits: RateLimits
    metrics: ApiMetrics


def state_of(request: Request) -> ApiState:
    """The state of the application that answers the request."""
    state: ApiState = request.app.state.tidemill
    return state


def platform_of(request: Request) -> Platform:
    """The platform behind the request, as a dependency of a route."""
    return state_of(request).platform
