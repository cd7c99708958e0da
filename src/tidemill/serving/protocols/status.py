"""What the server says of itself: /health, /ready, /info, /metrics, /openapi.json and /docs."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from tidemill.errors import TidemillError
from tidemill.serving.http.routes import Call, Handler, Protocol, Reply, Route, json_reply
from tidemill.serving.protocols import status_schema
from tidemill.serving.protocols.docs_page import docs_page
from tidemill.signature import Signature

if TYPE_CHECKING:
    from tidemill.serving.http.batch_commit import Turn
    from tidemill.serving.model.pool import ModelPool
    from tidemill.serving.model.predictor import Predictor
    from tidemill.serving.service import Service
    from tidemill.serving.telemetry.dependencies import DependencyProbes

log = logging.getLogger(__name__)
TEXT = b"text/plain; version=0.0.4; charset=utf-8"
HTML = b"text/html; charset=utf-8"


def protocol(service: Service) -> Protocol:
    """Routes and description of what is not a prediction."""
    models = service.models
    status = Status(models, service.turn, service.probes)
    later = Later(service.turn)
    routes = [
        Route("GET", "/health", status.health),
        Route("GET", "/ready", status.ready),
        Route("GET", "/info", status.info),
        Route("GET", "/models/{name}/info", status.model_info),
        Route("GET", "/metrics", later(lambda: Reply(service.scrape(), content_type=TEXT))),
        Route("GET", "/openapi.json", later(lambda: json_reply(service.openapi()))),
        Route("GET", "/docs", later(partial(_docs, service))),
    ]
    return Protocol("status", routes, lambda: status_schema.paths(models), status_schema.schemas)


class Status:
    """Handlers about the server's own state."""

    def __init__(self, models: ModelPool, turn: Turn, probes: DependencyProbes) -> None:
        self._models = models
        self._turn = turn
        self._probes = probes

    def health(self, call: Call) -> Reply:
        """Whether the process answers at all."""
        return json_reply({"status": "ok", "timestamp": _now()})

    def ready(self, call: Call) -> Reply:
        """Whether predictions can be answered; 503 when not."""
        journal = self._journal()
        models = self._models
        ready = models.serves and journal != "refusing" and not self._probes.missing()
        well = not models.problems and journal != "full" and not self._probes.troubled()
        status = "unavailable" if not ready else "ready" if well else "degraded"
        body: dict[str, Any] = {
            "status": status,
            "timestamp": _now(),
            **self._probes.report(),
            "models": {n: p.version for n, p in models.predictors.items()},
            "shelf": self._shelf(),
            "journal": journal,
        }
        return json_reply(body, 200 if ready else 503)

    def info(self, call: Call) -> Reply:
        """What is served."""
        return json_reply(
            {
                "service": "tidemill",
                "version": importlib.metadata.version("tidemill"),
                "default": self._models.default,
                "models": [describe(p) for _, p in sorted(self._models.predictors.items())],
            }
        )

    def model_info(self, call: Call) -> Reply:
        """What is known of one model."""
        return json_reply(describe(self._models.find(call.params["name"])))

    def _shelf(self) -> dict[str, Any]:
        synced = self._models.state.synced_at
        return {
            "problems": self._models.problems,
            "synced_at": datetime.fromtimestamp(synced, UTC).isoformat() if synced else None,
        }

    def _journal(self) -> str:
        journal = self._turn.journal
        if journal is None:
            return "off"
        if journal.refusing:
            return "refusing"
        return "full" if journal.state().full else "ok"


class Later:
    """Makes handlers of functions that may take a while: they run in a thread."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, make: Callable[[], Reply]) -> Handler:
        def handler(call: Call) -> None:
            task = asyncio.get_running_loop().create_task(self._run(call, make))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return handler

    async def _run(self, call: Call, make: Callable[[], Reply]) -> None:
        try:
            reply = await asyncio.to_thread(make)
        except Exception as error:  # the caller must be answered whatever went wrong
            log.error("%s failed", call.admission.route.path, exc_info=error)
            self._turn.fail(call, TidemillError("The server failed on this request."))
        else:
            self._turn.release(call, reply)


def describe(predictor: Predictor) -> dict[str, Any]:
    """One model in service, for people and programs."""
    manifest = predictor.bundle.manifest
    return {
        "name": predictor.name,
        "version": predictor.version,
        "digest": predictor.bundle.digest,
        "task": predictor.signature.task,
        "target": predictor.signature.target,
        "inputs": _inputs(predictor.signature),
        "labels": list(predictor.signature.labels),
        "runtime": manifest.runtime,
        "created": manifest.created,
        "metrics": manifest.metrics,
        "source": manifest.source,
        "loaded_at": datetime.fromtimestamp(predictor.loaded_at, UTC).isoformat(),
        "run_seconds": predictor.speed.of(1),
        "challenger": predictor.companion.state() if predictor.companion else None,
    }


def _inputs(signature: Signature) -> list[dict[str, Any]]:
    if signature.tensor is not None:
        tensor = signature.tensor
        return [{"name": tensor.name, "shape": list(tensor.shape), "dtype": tensor.dtype}]
    return [
        {"name": c.name, "kind": c.kind, "nullable": c.nullable, "expected": c.describe()}
        for c in signature.columns
    ]


def _docs(service: Service) -> Reply:
    return Reply(docs_page(service.openapi()), content_type=HTML)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
