from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

from tidemill.api.one_port import BackgroundApp, BuiltApp


class Asked:
    """One request or lifespan, driven by hand."""

    def __init__(self, app: BackgroundApp, kind: str = "http") -> None:
        self.sent: asyncio.Queue[Any] = asyncio.Queue()
        self.told: asyncio.Queue[Any] = asyncio.Queue()
        scope = {"type": kind, "path": "/jobs"}
        self.task = asyncio.create_task(app(scope, self.told.get, self.sent.put))  # type: ignore[arg-type]


async def answer(_scope: Any, _receive: Any, send: Any) -> None:
    await send("answered")


def test_a_request_waits_for_the_app_and_shutdown_closes_it() -> None:
    may_finish, closed = threading.Event(), threading.Event()

    def make() -> BuiltApp:
        assert may_finish.wait(300)
        return answer, closed.set

    async def run() -> None:
        app = BackgroundApp(make)
        life = Asked(app, "lifespan")
        await life.told.put({"type": "lifespan.startup"})
        assert (await life.sent.get())["type"] == "lifespan.startup.complete"
        assert app.describe() == {}
        request = Asked(app)
        await asyncio.sleep(0)
        assert request.sent.empty()
        may_finish.set()
        assert await asyncio.wait_for(request.sent.get(), 60) == "answered"
        await life.told.put({"type": "lifespan.shutdown"})
        assert (await life.sent.get())["type"] == "lifespan.shutdown.complete"
        assert closed.is_set()

    asyncio.run(run())


def test_an_app_that_fails_to_build_is_a_503_and_is_retried() -> None:
    tries = []

    def make() -> BuiltApp:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("the database is away")
        return answer, lambda: None

    async def run() -> None:
        app = BackgroundApp(make)
        first = Asked(app)
        assert (await first.sent.get())["status"] == 503
        problem = json.loads((await first.sent.get())["body"])
        assert "the database is away" in problem["detail"]
        await first.task
        assert await Asked(app).sent.get() == "answered"

    asyncio.run(run())
