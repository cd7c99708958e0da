"""The parts that all predictors of a process share."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec

from tidemill.serving.http.batch_commit import BatchCommit
from tidemill.serving.model.batching import BatchItem
from tidemill.serving.model.parsing_threads import ParsingThreads
from tidemill.serving.model.response_cache import ResponseCache
from tidemill.serving.settings import ServingSettings
from tidemill.serving.telemetry.metrics import Metrics

#: Called after each run of a model with its name, version, items, number of rows and seconds.
OnRun = Callable[[str, str, list[BatchItem], int, float], None]


class PredictorContext(msgspec.Struct, frozen=True):
    """What all predictors of a process share.

    Attributes:
        threads: Run slow models.
        parsing: Parses large bodies.
        on_run: Called after each run of a model, for traces.
    """

    settings: ServingSettings
    batch_commit: BatchCommit
    metrics: Metrics
    cache: ResponseCache | None
    threads: ThreadPoolExecutor
    parsing: ParsingThreads
    on_run: OnRun | None = None
