"""What predictors are given: the parts that they share, and a challenger's traffic split."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from tidemill.serving.http.batch_commit import BatchCommit
from tidemill.serving.http.routes import Request
from tidemill.serving.model.batching import BatchItem
from tidemill.serving.model.response_cache import ResponseCache
from tidemill.serving.settings import ServingSettings
from tidemill.serving.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from tidemill.serving.model.predictor import Predictor

#: Called after each run of a model with its name, version, items, number of rows and seconds.
OnRun = Callable[[str, str, list[BatchItem], int, float], None]


class PredictorContext(msgspec.Struct, frozen=True):
    """What all predictors of a process share.

    Attributes:
        threads: Run slow models.
        on_run: Called after each run of a model, for traces.
    """

    settings: ServingSettings
    batch_commit: BatchCommit
    metrics: Metrics
    cache: ResponseCache | None
    threads: ThreadPoolExecutor
    on_run: OnRun | None = None


class TrafficSplit(Protocol):
    """How a champion shares its traffic with its challenger."""

    def pick(self, request: Request) -> Predictor | None:
        """The challenger, if it answers this request instead of the champion; else None."""
        ...

    def mirror(self, request: Request) -> None:
        """Copy a request to a shadow challenger; the champion's response leaves with this tick."""
        ...

    def state(self) -> dict[str, Any]:
        """The challenger's version and its traffic rule, for the status routes."""
        ...
