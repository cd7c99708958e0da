"""All errors that Tidemill raises on purpose, each with its HTTP status.

TidemillError
├── InputError            422  a request that does not fit the model's signature
│   ├── RequestError      422  an invalid field or parameter of another request
│   ├── MalformedError    400  a body or header that cannot be parsed
│   ├── TooLargeError     413  a body over the size limit
│   └── MediaTypeError    415  an unsupported content type
├── AccessError           403  no key, a wrong key, or a key without the scope
├── NotFoundError         404  no such model, version, job or route
├── MethodError           405  an existing route, requested with another method
├── ConflictError         409  a request that contradicts the current state
├── RateLimitError        429  over the rate limit of the key or the address
├── UnavailableError      503  a required component is down or not ready yet
├── DeadlineError         504  a model that did not answer in time
├── ProjectError          422  an invalid project file
│   └── DataError         422  training data that is unusable or not as described
├── ExportError           422  a model that neither ONNX nor the native fallback can serve
├── BundleError           500  a bundle that is corrupt, incomplete or in another format
├── GateError             409  a version without the evidence to become champion
└── SettingsError         500  an invalid setting

The message names the field and what was found. `expected` says what is accepted, and `remedy` what
to do next.
"""

from __future__ import annotations

from typing import Any


class TidemillError(Exception):
    """The base class of all errors that Tidemill raises on purpose.

    Args:
        detail: One sentence for people: what is wrong, and where.
        field: The input field, parameter or setting at fault, if there is one.
        expected: What is accepted instead.
        remedy: What to do next.
    """

    status = 500
    title = "Internal error"

    def __init__(
        self,
        detail: str,
        *,
        field: str | None = None,
        expected: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        self.expected = expected
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.detail} {self.remedy}" if self.remedy else self.detail

    def problem(self) -> dict[str, Any]:
        """The error as an RFC 9457 `application/problem+json` object."""
        body: dict[str, Any] = {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        optional = {"field": self.field, "expected": self.expected, "remedy": self.remedy}
        body.update({name: value for name, value in optional.items() if value is not None})
        return {name: _encodable(value) for name, value in body.items()}


def _encodable(value: Any) -> Any:
    """Text without lone surrogates, which quoted JSON may contain and UTF-8 cannot."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


class InputError(TidemillError):
    """A request does not match the model's signature."""

    status, title = 422, "Input does not fit the model's signature"


class RequestError(InputError):
    """A field or parameter of a request is invalid."""

    title = "Invalid request"


class MalformedError(InputError):
    """A body or header cannot be parsed."""

    status, title = 400, "Malformed request"


class TooLargeError(InputError):
    """A body exceeds the size limit."""

    status, title = 413, "Request body too large"


class MediaTypeError(InputError):
    """The content type is not supported."""

    status, title = 415, "Unsupported media type"


class AccessError(TidemillError):
    """The API key is missing or wrong, or lacks the scope."""

    status, title = 403, "Forbidden"


class NotFoundError(TidemillError):
    """There is no such model, version, job or route."""

    status, title = 404, "Not found"


class MethodError(TidemillError):
    """The route does not support the HTTP method."""

    status, title = 405, "Method not allowed"


class ConflictError(TidemillError):
    """The request contradicts the current state."""

    status, title = 409, "Conflict"


class RateLimitError(TidemillError):
    """The key or the address has exceeded its rate limit."""

    status, title = 429, "Too many requests"


class UnavailableError(TidemillError):
    """A required component is down or not ready yet."""

    status, title = 503, "Unavailable"


class DeadlineError(TidemillError):
    """The model did not answer in time."""

    status, title = 504, "Timeout"


class ProjectError(TidemillError):
    """The project file is invalid."""

    status, title = 422, "Invalid project"


class DataError(ProjectError):
    """The training data cannot be used, or is not as described."""

    title = "Unusable data"


class ExportError(TidemillError):
    """Neither ONNX nor the native fallback can serve the model."""

    status, title = 422, "The model cannot be served"


class BundleError(TidemillError):
    """A bundle is corrupt, incomplete or in another format."""

    title = "Invalid bundle"


class GateError(TidemillError):
    """A version lacks the evidence to become champion."""

    status, title = 409, "The gate did not pass"


class SettingsError(TidemillError):
    """A setting is invalid."""

    title = "Invalid settings"
