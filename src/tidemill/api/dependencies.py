"""What routes depend on: the application's state, the platform, and a caller with a scope.

A route takes `platform: PlatformDep`, and one of `Anyone`, `KeyHolder`, `Predictor`, `Trainer`,
`Promoter` or `Admin`, which refuses callers without that scope.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from tidemill.addresses import client_network
from tidemill.api.metrics import ApiMetrics
from tidemill.errors import AccessError, RateLimitError
from tidemill.keyring import KeyRecord, Scope
from tidemill.platform import Platform
from tidemill.stores.api_keys import WatchedKeyring
from tidemill.stores.rate_limits import RateLimits


@dataclass(frozen=True)
class ApiState:
    """What all routes of one application share; `create_app` puts it into `app.state.tidemill`."""

    platform: Platform
    keyring: WatchedKeyring
    limits: RateLimits
    metrics: ApiMetrics


def state_of(request: Request) -> ApiState:
    """The state of the request's application."""
    state: ApiState = request.app.state.tidemill
    return state


def platform_of(request: Request) -> Platform:
    """The platform of the request's application."""
    return state_of(request).platform


@dataclass(frozen=True)
class Caller:
    """The client that sent a request."""

    address: str
    key: KeyRecord | None = None

    @property
    def key_id(self) -> str | None:
        return None if self.key is None else self.key.id

    @property
    def actor(self) -> str:
        """The caller's name in the audit log."""
        return f"key:{self.key.id}" if self.key is not None else "anonymous"


def token_of(request: Request) -> str | None:
    """The API key in `X-API-Key`, or in `Authorization` as a bearer token."""
    token = request.headers.get("x-api-key")
    if token is None:
        scheme, _, rest = request.headers.get("authorization", "").partition(" ")
        token = rest.strip() if scheme.lower() == "bearer" else None
    return token


def identify(request: Request) -> Caller:
    """Identify the caller, and count the request against its rate limit.

    Raises:
        RateLimitError: The caller has used up its limit.
    """
    state = state_of(request)
    address = request.client.host if request.client else "local"
    token = token_of(request)
    key = state.keyring.find(token) if token else None
    if key is not None and key.expires is not None and key.expires <= time.time():
        key = None
    caller = Caller(address, key)
    request.state.caller = caller
    share = state.limits.take(caller.key_id or client_network(address))
    if share is not None:
        request.state.headers = share.headers()
        if not share.allowed:
            raise RateLimitError(
                f"More than {share.quota} requests in {share.window} s.",
                remedy=f"Retry in {max(1, share.reset)} s.",
            )
    return caller


Anyone = Annotated[Caller, Depends(identify)]


def _requires(scope: Scope | None) -> Callable[[Request, Caller], Caller]:
    def check(request: Request, caller: Anyone) -> Caller:
        if caller.key is None:
            raise AccessError(
                "The API key is wrong or has expired."
                if token_of(request)
                else "This route needs an API key.",
                field="X-API-Key",
                remedy="Send a key as X-API-Key; create one with `tidemill keys create`.",
            )
        if scope is not None and not caller.key.allows(scope, time.time()):
            raise AccessError(
                f"Key {caller.key.id} does not have the scope '{scope}'.",
                field="X-API-Key",
                remedy=f"Create a key with `tidemill keys create --scope {scope}`.",
            )
        return caller

    return check


PlatformDep = Annotated[Platform, Depends(platform_of)]
StateDep = Annotated[ApiState, Depends(state_of)]
KeyHolder = Annotated[Caller, Depends(_requires(None))]
Predictor = Annotated[Caller, Depends(_requires("predict"))]
Trainer = Annotated[Caller, Depends(_requires("train"))]
Promoter = Annotated[Caller, Depends(_requires("promote"))]
Admin = Annotated[Caller, Depends(_requires("admin"))]
