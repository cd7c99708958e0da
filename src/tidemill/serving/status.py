"""What the server says of itself: /health, /ready, /info, /metrics, /openapi.json and /docs."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tidemill.serving.page import docs_page
from tidemill.serving.routes import Call, Protocol, Reply, Route, json_reply
from tidemill.signature import Signature

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from tidemill.serving.fleet import Fleet
    from tidemill.serving.metrics import Metrics
    from tidemill.serving.predictor import Predictor
    from tidemill.serving.probes import Probes
    from tidemill.serving.service import Service
    from tidemill.serving.turn import Turn

TEXT = b"text/plain; version=0.0.4; charset=utf-8"
HTML = b"text/html; charset=utf-8"


def protocol(service: Service) -> Protocol:
    """Routes and description of what is not a prediction."""
    status = Status(service.fleet, service.turn, service.probes)
    routes = [
        Route("GET", "/health", status.health),
        Route("GET", "/ready", status.ready),
        Route("GET", "/info", status.info),
        Route("GET", "/models/{name}/info", status.model_info),
        Route("GET", "/metrics", _metrics(service.metrics, service.registry)),
        Route("GET", "/openapi.json", lambda _: json_reply(service.openapi())),
        Route("GET", "/docs", lambda _: Reply(docs_page(service.openapi()), content_type=HTML)),
    ]
    return Protocol("status", routes, dict)


class Status:
    """Handlers about the server's own state."""

    def __init__(self, fleet: Fleet, turn: Turn, probes: Probes) -> None:
        self._fleet = fleet
        self._turn = turn
        self._probes = probes

    def health(self, call: Call) -> Reply:
        """Whether the process answers at all."""
        return json_reply({"status": "healthy", "timestamp": _now()})

    def ready(self, call: Call) -> Reply:
        """Whether predictions can be answered; 503 when not."""
        journal = self._turn.journal
        refusing = journal is not None and journal.refusing
        missing = self._probes.missing()
        loaded = self._fleet.ready.is_set() and bool(self._fleet.predictors)
        ready = loaded and not refusing and not missing
        body: dict[str, Any] = {
            "status": "ready" if ready else "not ready",
            "timestamp": _now(),
            **self._probes.report(),
            "models": {n: p.version for n, p in self._fleet.predictors.items()},
            "shelf": self._shelf(),
            "journal": "off" if journal is None else "refusing" if refusing else "ok",
        }
        return json_reply(body, 200 if ready else 503)

    def info(self, call: Call) -> Reply:
        """What is served."""
        predictors = self._fleet.predictors
        return json_reply(
            {
                "service": "tidemill",
                "version": importlib.metadata.version("tidemill"),
                "default": self._fleet.default,
                "models": [describe(p) for _, p in sorted(predictors.items())],
            }
        )

    def model_info(self, call: Call) -> Reply:
        """What is known of one model."""
        return json_reply(describe(self._fleet.find(call.params["name"])))

    def _shelf(self) -> dict[str, Any]:
        synced = self._fleet.state.synced_at
        return {
            "problems": self._fleet.problems,
            "synced_at": datetime.fromtimestamp(synced, UTC).isoformat() if synced else None,
        }


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
    }


def _inputs(signature: Signature) -> list[dict[str, Any]]:
    if signature.tensor is not None:
        tensor = signature.tensor
        return [{"name": tensor.name, "shape": list(tensor.shape), "dtype": tensor.dtype}]
    return [
        {"name": c.name, "kind": c.kind, "nullable": c.nullable, "expected": c.describe()}
        for c in signature.columns
    ]


def _metrics(metrics: Metrics, registry: CollectorRegistry | None) -> Callable[[Call], Reply]:
    def answer(call: Call) -> Reply:
        return Reply(metrics.scrape(registry), content_type=TEXT)

    return answer


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
