"""A page that changes while somebody looks: made again every other second, sent if it differs.

Server-sent events over the page's own address. A stream ends when the user's session does, when
the server wants to end, or after ten minutes; a browser then asks for the next one by itself.
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
LOOK_SECONDS = 2.0
LONGEST_SECONDS = 600.0
# A comment now and then shows the server which browsers are gone, and proxies that it is not.
COMMENT_SECONDS = 15.0
MOST = 64
#: Put into a request's scope by whoever serves the console, if it can tell that it is to end.
ENDING = "tidemill.ending"
#: What the request log and the metrics call a stream: its minutes are not a page's milliseconds.
ROUTE = Route("/console/live", lambda request: None)
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "Vary": "Accept, Cookie"}


def stream_page(make: Callable[[], str], user: Callable[[], object], request: Request) -> Response:
    """The stream of a page.

    Args:
        make: Gives the page as HTML, in a thread.
        user: None when the session is over.
    """
    streams = request.app.state.streams
    request.scope["route"] = ROUTE
    if streams.running >= MOST:
        return Response("Too many open consoles.", 503, {**_HEADERS, "Retry-After": "30"})
    body = _events(make, user, request.scope.get(ENDING) or asyncio.Event(), streams)
    return StreamingResponse(body, headers=_HEADERS, media_type="text/event-stream")


class StreamCounter:
    """How many are open."""

    running = 0


async def _events(
    make: Callable[[], str],
    user: Callable[[], object],
    ending: asyncio.Event,
    streams: StreamCounter,
) -> AsyncIterator[str]:
    streams.running += 1
    try:
        began = spoke = time.monotonic()
        shown = b""
        yield "retry: 3000\n\n"
        while not ending.is_set() and time.monotonic() - began < LONGEST_SECONDS:
            if user() is None:
                yield "event: gone\ndata: \n\n"
                return
            html = await _made(make)
            digest = hashlib.blake2b(html.encode(), digest_size=16).digest()
            if html and digest != shown:
                shown, spoke = digest, time.monotonic()
                yield _event(html)
            elif time.monotonic() - spoke > COMMENT_SECONDS:
                spoke = time.monotonic()
                yield ": nothing new\n\n"
            await _sleep(ending)
    finally:
        streams.running -= 1


async def _made(make: Callable[[], str]) -> str:
    """The page; empty when it cannot be made now, so that the browser keeps what it shows."""
    try:
        return await run_in_threadpool(make)
    except Exception as error:
        log.info("a page that is followed could not be made: %s", error)
        return ""


async def _sleep(ending: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(ending.wait(), LOOK_SECONDS)
    except TimeoutError:
        return


def _event(html: str) -> str:
    return "".join(f"data: {line}\n" for line in html.splitlines()) + "\n"
