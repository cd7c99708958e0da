"""Live pages: a page is rendered every other second, and sent when it has changed.

Server-sent events at the page's own URL. A stream ends with the session, at the server's shutdown,
or after ten minutes; the browser then opens the next one by itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Callable

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

log = logging.getLogger(__name__)
POLL_SECONDS = 2.0
MAX_SECONDS = 600.0
# Comments tell the server which browsers have gone, and proxies that the stream is alive.
COMMENT_SECONDS = 15.0
MAX_STREAMS = 64
#: Key in the ASGI scope of an event that `api.one_port` sets when the server shuts down.
SHUTDOWN_EVENT = "tidemill.shutdown"
#: Streams have a route of their own in metrics: they last minutes, pages milliseconds.
ROUTE = Route("/console/live", lambda request: None)
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "Vary": "Accept, Cookie"}


class StreamCounter:
    """The number of open streams."""

    running = 0


def stream_page(
    render: Callable[[], str], signed_in: Callable[[], bool], request: Request
) -> Response:
    """The stream of a page.

    Args:
        render: Returns the page's content as HTML; runs in a thread.
        signed_in: Whether the session is still valid.
    """
    streams = request.app.state.streams
    request.scope["route"] = ROUTE
    if streams.running >= MAX_STREAMS:
        return Response("Too many open consoles.", 503, {**_HEADERS, "Retry-After": "30"})
    shutdown = request.scope.get(SHUTDOWN_EVENT) or asyncio.Event()
    body = _events(render, signed_in, shutdown, streams)
    return StreamingResponse(body, headers=_HEADERS, media_type="text/event-stream")


async def _events(
    render: Callable[[], str],
    signed_in: Callable[[], bool],
    shutdown: asyncio.Event,
    streams: StreamCounter,
) -> AsyncIterator[str]:
    streams.running += 1
    try:
        started = last_sent = time.monotonic()
        shown = b""
        yield "retry: 3000\n\n"
        while not shutdown.is_set() and time.monotonic() - started < MAX_SECONDS:
            if not signed_in():
                yield "event: gone\ndata: \n\n"
                return
            html = await _render(render)
            digest = hashlib.blake2b(html.encode(), digest_size=16).digest()
            if html and digest != shown:
                shown, last_sent = digest, time.monotonic()
                yield _event(html)
            elif time.monotonic() - last_sent > COMMENT_SECONDS:
                last_sent = time.monotonic()
                yield ": no change\n\n"
            await _sleep(shutdown)
    finally:
        streams.running -= 1


async def _render(render: Callable[[], str]) -> str:
    """The page; empty if it cannot be rendered now, so that the browser keeps the last one."""
    try:
        return await run_in_threadpool(render)
    except Exception as error:
        log.info("a live page could not be rendered: %s", error)
        return ""


async def _sleep(shutdown: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(shutdown.wait(), POLL_SECONDS)
    except TimeoutError:
        return


def _event(html: str) -> str:
    return "".join(f"data: {line}\n" for line in html.splitlines()) + "\n"
