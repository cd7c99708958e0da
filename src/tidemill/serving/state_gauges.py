"""Updates the metrics whose values are read from the server's state instead of counted."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from tidemill.serving.http.api_keys import ApiKeys
from tidemill.serving.journal.journal import Journal
from tidemill.serving.model.pool import ModelPool
from tidemill.serving.model.response_cache import ResponseCache
from tidemill.serving.settings import ServingSettings
from tidemill.serving.telemetry.metrics import Metrics


class StateGauges:
    """The gauges of one process."""

    def __init__(
        self,
        metrics: Metrics,
        settings: ServingSettings,
        models: ModelPool,
        journal: Journal | None,
        cache: ResponseCache | None,
        keys: ApiKeys,
    ) -> None:
        self._metrics = metrics
        self._keys = keys
        self._settings = settings
        self._models = models
        self._journal = journal
        self._cache = cache

    def update(self) -> None:
        """Read the state of models, disks, journal and cache."""
        metrics, models = self._metrics, self._models
        metrics.gauge("tidemill_models").set(len(models.predictors))
        metrics.gauge("tidemill_models_failing").set(len(models.failing))
        metrics.gauge("tidemill_keys_stale").set(self._keys.state == "stale")
        metrics.gauge("tidemill_shelf_problems").set(len(models.problems))
        metrics.gauge("tidemill_shelf_synced_timestamp_seconds").set(models.state.synced_at)
        self._disk("shelf", self._settings.shelf)
        if self._journal is not None:
            self._update_journal(self._journal)
        if self._cache is not None:
            cache = self._cache.state()
            metrics.gauge("tidemill_cache_entries").set(cache.entries)
            metrics.counter("tidemill_cache_errors_total").set(cache.remote_errors)

    def _update_journal(self, journal: Journal) -> None:
        self._disk("journal", self._settings.journal_folder)
        metrics, state = self._metrics, journal.state()
        metrics.counter("tidemill_journal_records_total").set(state.records)
        metrics.counter("tidemill_journal_bytes_total").set(state.bytes)
        metrics.counter("tidemill_journal_dropped_total").set(state.dropped)
        metrics.counter("tidemill_journal_refused_total").set(state.refused)
        metrics.gauge("tidemill_journal_folder_bytes").set(state.folder_bytes)
        metrics.gauge("tidemill_journal_lag_seconds").set(state.lag_seconds)
        metrics.gauge("tidemill_journal_full").set(state.full)

    def _disk(self, name: str, folder: Path) -> None:
        """Free and total bytes of the disk under a folder; unchanged if the folder is missing."""
        with contextlib.suppress(OSError):
            usage = shutil.disk_usage(folder)
            self._metrics.gauge("tidemill_disk_free_bytes", folder=name).set(usage.free)
            self._metrics.gauge("tidemill_disk_size_bytes", folder=name).set(usage.total)
