"""The audit log, the request log, and the log files of processes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.responses import Response

from tidemill.border import check_integer
from tidemill.console import log_files
from tidemill.console.page_request import PageRequest
from tidemill.console.responses import download, show_page
from tidemill.errors import RequestError
from tidemill.stores.database.queries import MAX_LIMIT, ResultPage

AUDIT_FIELDS = (
    "seq", "time", "actor", "action", "subject", "version", "origin", "reason", "details",
)  # fmt: skip
REQUEST_FIELDS = (
    "time", "method", "route", "path", "status", "milliseconds", "address", "key_id", "request_id",
)  # fmt: skip
LEVELS = ("debug", "info", "warning", "error", "critical")
MAX_EXPORTED = 100_000
GetPage = Callable[[str | None, int], ResultPage[dict[str, Any]]]


def audit(request: PageRequest) -> Response:
    """The audit log, filtered."""
    page = _audit_pages(request)(request.query.get("cursor"), 50)
    return show_page(request, "audit.html", {"page": page, "query": request.query})


def verify(request: PageRequest) -> Response:
    """The audit log with the result of verifying its hash chain."""
    page = _audit_pages(request)(None, 50)
    verdict = request.context.platform.audit.verify()
    return show_page(request, "audit.html", {"page": page, "query": {}, "verdict": verdict})


def export_audit(request: PageRequest) -> Response:
    """The filtered rows as CSV or JSON lines."""
    return _export(request, "audit", AUDIT_FIELDS, _audit_pages(request))


def requests(request: PageRequest) -> Response:
    """The request log, filtered."""
    page = _request_pages(request)(request.query.get("cursor"), 50)
    return show_page(request, "requests.html", {"page": page, "query": request.query})


def export_requests(request: PageRequest) -> Response:
    """The filtered rows as CSV or JSON lines."""
    return _export(request, "requests", REQUEST_FIELDS, _request_pages(request))


def logs(request: PageRequest) -> Response:
    """The newest lines of a log file on this machine."""
    folder, query = request.context.platform.settings.logs, request.query
    names = log_files.names(folder)
    name = query.get("file") or ("api.log" if "api.log" in names else next(iter(names), ""))
    found = log_files.lines(folder, name, text=query.get("text", ""), level=query.get("level", ""))
    return show_page(
        request,
        "logs.html",
        {"names": names, "name": name, "lines": found, "query": query, "levels": LEVELS},
    )


def _audit_pages(request: PageRequest) -> GetPage:
    query = request.query
    return lambda cursor, limit: request.context.platform.audit.page(
        action=query.get("action"),
        subject=query.get("subject"),
        actor=query.get("actor"),
        since=parse_time(query.get("since")),
        limit=limit,
        cursor=cursor,
    )


def _request_pages(request: PageRequest) -> GetPage:
    query = request.query
    status = query.get("status")
    code = None if status is None else check_integer(status, "status", low=100, high=599)
    return lambda cursor, limit: request.context.platform.requests.page(
        route=query.get("route"),
        method=query.get("method"),
        status=code,
        since=parse_time(query.get("since")),
        limit=limit,
        cursor=cursor,
    )


def parse_time(text: str | None) -> float | None:
    """A date or time from a form as seconds since the epoch; without a time zone it is UTC.

    Raises:
        RequestError: The text is not a date or time.
    """
    if not text:
        return None
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise RequestError(
            f"'{text}' is not a date or time.",
            field="since",
            expected="for example 2026-01-31 or 2026-01-31T12:00",
        ) from error
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def _export(request: PageRequest, name: str, names: tuple[str, ...], pages: GetPage) -> Response:
    if request.query.get("as") == "json":
        return download(f"{name}.jsonl", "application/x-ndjson", _as_json(_all(pages)))
    return download(f"{name}.csv", "text/csv; charset=utf-8", _as_csv(names, _all(pages)))


def _all(pages: GetPage) -> Iterator[list[dict[str, Any]]]:
    cursor, count = None, 0
    while count < MAX_EXPORTED:
        page = pages(cursor, MAX_LIMIT)
        yield page.items
        count += len(page.items)
        cursor = page.next
        if cursor is None:
            return


def _as_csv(names: tuple[str, ...], chunks: Iterator[list[dict[str, Any]]]) -> Iterator[bytes]:
    yield _csv_lines([list(names)])
    for chunk in chunks:
        yield _csv_lines([[_cell(row.get(name)) for name in names] for row in chunk])


def _csv_lines(rows: list[list[Any]]) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue().encode()


def _cell(value: Any) -> Any:
    """The value as a cell that spreadsheets do not run as a formula."""
    text = json.dumps(value) if isinstance(value, Mapping | list) else value
    dangerous = isinstance(text, str) and text[:1] in ("=", "+", "-", "@", "\t", "\r")
    return f"'{text}" if dangerous else text


def _as_json(chunks: Iterator[list[dict[str, Any]]]) -> Iterator[bytes]:
    for chunk in chunks:
        yield "".join(f"{json.dumps(row, default=str)}\n" for row in chunk).encode()
