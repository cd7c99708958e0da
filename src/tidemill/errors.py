"""The one tree of errors, each with the HTTP status it means.

TidemillError
├── InputError            422  a request that does not fit the model's signature
│   ├── RequestError      422  a field or parameter of a request that is not what it should be
│   ├── MalformedError    400  a body or header that cannot be read at all
│   ├── TooLargeError     413  a body over the limit
│   └── MediaTypeError    415  a content type nobody here reads
├── AccessError           403  no key, a wrong key, or a key without the scope
├── NotFoundError         404  no such model, version, job or route
├── MethodError           405  a route that exists, asked with another verb
├── ConflictError         409  the thing asked for contradicts what is there
├── RateLimitError        429  over the key's or the address's share
├── UnavailableError      503  a part that is needed is down or not ready yet
├── DeadlineError         504  a model that did not come to an answer in time
├── ProjectError          422  what the user wrote in a project does not hold together
│   └── DataError         422  the training data cannot be used, or not as described
├── ExportError           422  neither ONNX nor the native fallback can serve this model
├── BundleError           500  a bundle that is corrupt, truncated or of another format
├── GateError             409  a version without the evidence to become champion
└── SettingsError         500  what the operator set does not hold together

Every message says what is wrong, and where it helps a `remedy` says what to do next.
"""

from __future__ import annotations

from typing import Any


class TidemillError(Exception):
    """Anything Tidemill refuses or cannot do.

    Args:
        detail: One sentence for a person; names the field or thing at fault.
        field: The input field, parameter or setting at fault, if there is one.
        expected: What would have been accepted in its place.
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
        return body


class InputError(TidemillError):
    status, title = 422, "Input does not fit the model's signature"


class RequestError(InputError):
    title = "Invalid request"


class MalformedError(InputError):
    status, title = 400, "Malformed request"


class TooLargeError(InputError):
    status, title = 413, "Request body too large"


class MediaTypeError(InputError):
    status, title = 415, "Unsupported media type"


class AccessError(TidemillError):
    status, title = 403, "Forbidden"


class NotFoundError(TidemillError):
    status, title = 404, "Not found"


class MethodError(TidemillError):
    status, title = 405, "Method not allowed"


class ConflictError(TidemillError):
    status, title = 409, "Conflict"


class RateLimitError(TidemillError):
    status, title = 429, "Too many requests"


class UnavailableError(TidemillError):
    status, title = 503, "Unavailable"


class DeadlineError(TidemillError):
    status, title = 504, "Timeout"


class ProjectError(TidemillError):
    status, title = 422, "The project does not hold together"


class DataError(ProjectError):
    title = "The data cannot be used"


class ExportError(TidemillError):
    status, title = 422, "The model cannot be served"


class BundleError(TidemillError):
    title = "The bundle is not intact"


class GateError(TidemillError):
    status, title = 409, "The gate stays closed"


class SettingsError(TidemillError):
    title = "The settings do not hold together"
