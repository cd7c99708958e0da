"""Who calls, and whether they may: keys with scopes, and each caller's share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from tidemill.api.state import state_of
from tidemill.errors import AccessError, RateLimitError
from tidemill.keyring import KeyRecord, Scope


@dataclass(frozen=True)
class Caller:
    """Who a request comes from."""

    address: str
    key: KeyRecord | None = None

    @property
    def key_id(self) -> str | None:
        return None if self.key is None else self.key.id

    @property
    def actor(self) -> str:
        """How the audit log names the caller."""
        return f"key:{self.key.id}" if self.key is not None else "anonymous"


def token_of(request: Request) -> str | None:
    """The key that a request carries, in `X-API-Key` or as a bearer token."""
    token = request.headers.get("x-api-key")
    if token is None:
        scheme, _, rest = request.headers.get("authorization", "").partition(" ")
        token = rest.strip() if scheme.lower() == "bearer" else None
    return token


def identify(request: Request) -> Caller:
    """The caller, counted against its share.

    Raises:
        RateLimitError: The share is used up.
    """
    state = state_of(request)
    address = request.client.host if request.client else "local"
    token = token_of(request)
    key = state.keyring.find(token) if token else None
    if key is not None and key.expires is not None and key.expires <= time.time():
        key = None
    caller = Caller(address, key)
    request.state.caller = caller
    share = state.limits.take(caller.key_id or address)
    if share is not None:
        request.state.headers = share.headers()
        if not share.allowed:
            raise RateLimitError(
                f"More than {share.quota} requests in {share.window} s.",
                remedy=f"Wait {max(1, share.reset)} s.",
            )
    return caller


Anyone = Annotated[Caller, Depends(identify)]


def _needs(scope: Scope | None) -> Callable[[Request, Caller], Caller]:
    def check(request: Request, caller: Anyone) -> Caller:
        if caller.key is None:
            raise AccessError(
                "A wrong or expired key." if token_of(request) else "This needs an API key.",
                field="X-API-Key",
                remedy="Send a key as X-API-Key; `tidemill keys create` makes one.",
            )
        if scope is not None and not caller.key.allows(scope, time.time()):
            raise AccessError(
                f"Key {caller.key.id} does not have the scope '{scope}'.",
                field="X-API-Key",
                remedy=f"Make a key with `tidemill keys create --scope {scope}`.",
            )
        return caller

    return check


KeyHolder = Annotated[Caller, Depends(_needs(None))]
Predictor = Annotated[Caller, Depends(_needs("predict"))]
Trainer = Annotated[Caller, Depends(_needs("train"))]
Promoter = Annotated[Caller, Depends(_needs("promote"))]
Admin = Annotated[Caller, Depends(_needs("admin"))]
