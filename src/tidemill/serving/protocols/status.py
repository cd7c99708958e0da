"""The server's own state: /health, /ready, /info, /metrics, /openapi.json and /docs."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tidemill.errors import TidemillError
from tidemill.serving.http.api_keys import ApiKeys
from tidemill.serving.http.routes import (
    Handler,
    Request,
    Response,
    Route,
    ServingProtocol,
    json_response,
)
from tidemill.serving.protocols import status_schema
from tidemill.serving.protocols.docs_page import docs_page
from tidemill.signature import Signature

if TYPE_CHECKING:
    from tidemill.serving.http.batch_commit import BatchCommit
    from tidemill.serving.model.pool import ModelPool
    from tidemill.serving.model.predictor import Predictor
    from tidemill.serving.telemetry.dependencies import DependencyProbes

log = logging.getLogger(__name__)
TEXT = b"text/plain; version=0.0.4; charset=utf-8"
HTML = b"text/html; charset=utf-8"


def protocol(
    models: ModelPool,
    batch_commit: BatchCommit,
    probes: DependencyProbes,
    scrape: Callable[[], bytes],
    document: Callable[[], dict[str, Any]],
    keys: ApiKeys,
) -> ServingProtocol:
    """Routes and description of everything that is not a prediction.

    Args:
        scrape: Returns the text of `/metrics`; may take a while.
        document: Returns the OpenAPI document; may take a while.
    """
    status = StatusHandlers(models, batch_commit, probes, keys)
    in_thread = InThread(batch_commit)
    routes = [
        Route("GET", "/health", status.health),
        Route("GET", "/ready", status.ready),
        Route("GET", "/info", status.info),
        Route("GET", "/models/{name}/info", status.model_info),
        Route("GET", "/metrics", in_thread(lambda: Response(scrape(), content_type=TEXT))),
        Route("GET", "/openapi.json", in_thread(lambda: json_response(document()))),
        Route(
            "GET",
            "/docs",
            in_thread(lambda: Response(docs_page(document()), content_type=HTML)),
        ),
    ]
    return ServingProtocol(
        "status", routes, lambda: status_schema.paths(models), status_schema.schemas
    )


class StatusHandlers:
    """Handlers about the server's own state."""

    def __init__(
        self,
        models: ModelPool,
        batch_commit: BatchCommit,
        probes: DependencyProbes,
        keys: ApiKeys,
    ) -> None:
        self._models = models
        self._batch_commit = batch_commit
        self._probes = probes
        self._keys = keys

    def health(self, request: Request) -> Response:
        """Whether the process answers."""
        return json_response({"status": "ok", "timestamp": _now()})

    def ready(self, request: Request) -> Response:
        """Whether the server can predict; 503 if not."""
        journal = self._journal()
        models = self._models
        ready = models.is_serving and journal != "refusing" and not self._probes.unmet()
        well = (
            not models.problems
            and not models.failing
            and journal != "full"
            and self._keys.state != "stale"
            and not self._probes.unreachable()
        )
        status = "unavailable" if not ready else "ready" if well else "degraded"
        body: dict[str, Any] = {
            "status": status,
            "timestamp": _now(),
            **self._probes.report(),
            "models": {n: p.version for n, p in models.predictors.items()},
            "failing": models.failing,
            "shelf": self._shelf(),
            "journal": journal,
            "keys": self._keys.state,
        }
        return json_response(body, 200 if ready else 503)

    def info(self, request: Request) -> Response:
        """All models in service."""
        return json_response(
            {
                "service": "tidemill",
                "version": importlib.metadata.version("tidemill"),
                "default": self._models.default,
                "models": [describe(p) for _, p in sorted(self._models.predictors.items())],
            }
        )

    def model_info(self, request: Request) -> Response:
        """One model in service."""
        return json_response(describe(self._models.find(request.params["name"])))

    def _shelf(self) -> dict[str, Any]:
        synced = self._models.state.synced_at
        return {
            "problems": self._models.problems,
            "synced_at": datetime.fromtimestamp(synced, UTC).isoformat() if synced else None,
        }

    def _journal(self) -> str:
        journal = self._batch_commit.journal
        if journal is None:
            return "off"
        if journal.refusing:
            return "refusing"
        return "full" if journal.state().full else "ok"


class InThread:
    """Turns slow functions into handlers that run in a thread."""

    def __init__(self, batch_commit: BatchCommit) -> None:
        self._batch_commit = batch_commit
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, build: Callable[[], Response]) -> Handler:
        def handler(request: Request) -> None:
            task = asyncio.get_running_loop().create_task(self._run(request, build))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return handler

    async def _run(self, request: Request, build: Callable[[], Response]) -> None:
        try:
            response = await asyncio.to_thread(build)
        except Exception as error:  # whatever failed, the client must get a response
            log.error("%s failed", request.admission.route.path, exc_info=error)
            self._batch_commit.fail(request, TidemillError("The server failed on this request."))
        else:
            self._batch_commit.release(request, response)


def describe(predictor: Predictor) -> dict[str, Any]:
    """The details of one model in service, as JSON."""
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
        "run_seconds": predictor.latency.seconds(1),
        "challenger": predictor.traffic_split.state() if predictor.traffic_split else None,
    }


def _inputs(signature: Signature) -> list[dict[str, Any]]:
    if signature.tensor is not None:
        tensor = signature.tensor
        return [{"name": tensor.name, "shape": list(tensor.shape), "dtype": tensor.dtype}]
    return [
        {"name": c.name, "kind": c.kind, "nullable": c.nullable, "expected": c.describe()}
        for c in signature.columns
    ]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
