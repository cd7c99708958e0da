"""What the routes of one application share."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from tidemill.api.metrics import Metrics
from tidemill.platform import Platform
from tidemill.stores.keys import WatchedKeyring
from tidemill.stores.rate_limits import RateLimits


@dataclass(frozen=True)
class State:
    """Kept in `app.state.tidemill`, made by `create_app`."""

    platform: Platform
    keyring: WatchedKeyring
    limits: RateLimits
    metrics: Metrics


def state_of(request: Request) -> State:
    """The state of the application that answers the request."""
    state: State = request.app.state.tidemill
    return state


def platform_of(request: Request) -> Platform:
    """The platform behind the request, as a dependency of a route."""
    return state_of(request).platform
