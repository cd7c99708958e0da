"""The request that a page gets: Starlette's, with the signed-in user, the form and the context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import parse_qsl

from starlette.requests import Request

from tidemill.addresses import http_url
from tidemill.console.background_cache import BackgroundCache
from tidemill.console.session import COOKIE, Session, Sessions
from tidemill.console.sign_in_limits import SignInLimits
from tidemill.console.traffic import Traffic
from tidemill.errors import AccessError, MalformedError
from tidemill.keyring import Scope
from tidemill.platform import Platform
from tidemill.stores.mlflow.versions import RegisteredModel
from tidemill.stores.rate_limits import RateLimits


@dataclass(frozen=True)
class ConsoleContext:
    """What all pages share; `create_console` puts it into `app.state.context`."""

    platform: Platform
    sessions: Sessions
    limits: RateLimits
    sign_in_limits: SignInLimits
    cache: BackgroundCache = field(default_factory=BackgroundCache)
    traffic: Traffic = field(default_factory=Traffic)

    def registered_models(self) -> list[RegisteredModel]:
        """The registered models, read from MLflow now."""
        return self.platform.registry.models()


@dataclass(frozen=True)
class SignedInUser:
    """The user of a session, with the fields that the request log reads from an API caller."""

    address: str
    session: Session

    @property
    def key_id(self) -> str:
        return self.session.key.id

    @property
    def actor(self) -> str:
        """The user's name in the audit log: the same as for API requests with the key."""
        return f"key:{self.key_id}"

    def allows(self, scope: Scope) -> bool:
        return self.session.allows(scope)

    def require(self, scope: Scope) -> None:
        """Refuse a user without the scope.

        Raises:
            AccessError: Names the missing scope.
        """
        if not self.allows(scope):
            raise AccessError(
                f"Your key {self.key_id} does not have the scope '{scope}': you can look, but not "
                "change this.",
                remedy=f"Sign in with a key created by `tidemill keys create --scope {scope}`.",
            )


class PageRequest(Request):
    """A request of a signed-in user."""

    body_bytes = b""

    async def read_body(self) -> None:
        """Read the body, which page functions need without awaiting."""
        self.body_bytes = await self.body()

    @property
    def context(self) -> ConsoleContext:
        return context_of(self)

    @property
    def user(self) -> SignedInUser:
        user: SignedInUser = self.scope["user"]
        return user

    @cached_property
    def query(self) -> Mapping[str, str]:
        """The query parameters that are not empty."""
        return {name: value for name, value in self.query_params.items() if value}

    @cached_property
    def form_fields(self) -> Mapping[str, str]:
        """The fields of a submitted form."""
        return parse_form(self, self.body_bytes)

    @property
    def serving_url(self) -> str:
        """Where the data plane answers."""
        return self.context.platform.settings.serving_url or self._own_url()

    @property
    def request_id(self) -> str | None:
        return getattr(self.state, "request_id", None)

    @property
    def is_live(self) -> bool:
        """Whether the browser wants the page as an event stream."""
        return "text/event-stream" in self.headers.get("accept", "")

    def _own_url(self) -> str:
        """Where this server listens: from the socket, never from headers, which a client sets."""
        host, port = self.scope.get("server") or ("127.0.0.1", 8000)
        return http_url(host, port)


def context_of(request: Request) -> ConsoleContext:
    """The context of the console that handles the request."""
    context: ConsoleContext = request.app.state.context
    return context


def signed_in_user(request: Request) -> SignedInUser | None:
    """The user of the request's session cookie, if it is valid."""
    cookie = request.cookies.get(cookie_name(request), "")
    session = context_of(request).sessions.read(cookie)
    if session is None:
        return None
    user = SignedInUser(client_address(request), session)
    request.state.caller = user  # for the request log
    return user


def cookie_name(request: Request) -> str:
    """The session cookie's name, different for each port: browsers share cookies between ports."""
    return COOKIE if request.url.port is None else f"{COOKIE}_{request.url.port}"


def client_address(request: Request) -> str:
    return request.client.host if request.client else "local"


def parse_form(request: Request, body: bytes) -> dict[str, str]:
    """The fields of a URL-encoded form, empty ones included; the last of several with one name.

    Raises:
        MalformedError: The body is not UTF-8.
    """
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return {}
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=20_000))
    except ValueError as error:
        raise MalformedError(f"The form is malformed: {error}", field="body") from error
