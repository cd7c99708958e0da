"""Loads challengers and connects them to their champions, following the shelf's traffic rules."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from tidemill.errors import BundleError, TidemillError
from tidemill.serving.http.batch_commit import BatchCommit
from tidemill.serving.model.challenger import ChallengerPredictor, ChallengerTraffic
from tidemill.serving.model.predictor import Predictor
from tidemill.serving.shelf.shelf import FileWatch, ShelfEntry, ShelfState
from tidemill.serving.shelf.traffic_rules import OFF, TrafficRule
from tidemill.serving.shelf.version_loads import VersionLoads
from tidemill.serving.telemetry.metrics import Metrics

log = logging.getLogger(__name__)
RETRY_SECONDS = 5.0
LOAD_SECONDS = 1.0  # that a call waits for the challengers it loads
LoadChallenger = Callable[[str, ShelfEntry], ChallengerPredictor]


class Challengers:
    """The loaded challengers, by model name.

    Champions are not affected by rules that cannot be read or a challenger that cannot be loaded:
    the error is logged and the operation retried.

    Args:
        load: Loads the challenger of a shelf entry; runs in a thread, raises TidemillError.
        watch: Returns the rules when they have changed.
    """

    def __init__(
        self,
        load: LoadChallenger,
        watch: FileWatch[dict[str, TrafficRule]],
        batch_commit: BatchCommit,
        metrics: Metrics,
    ) -> None:
        self._loads = VersionLoads(load)
        self._watch = watch
        self._batch_commit = batch_commit
        self._metrics = metrics
        self._rules: Mapping[str, TrafficRule] = {}
        self._traffic: dict[str, ChallengerTraffic] = {}
        self._retry_at: dict[tuple[str, str], float] = {}
        self._last_error = ""

    async def follow(self, state: ShelfState, champions: Mapping[str, Predictor]) -> None:
        """Update the challenger of every champion; cheap if nothing has changed."""
        await self._read_rules()
        deadline = time.monotonic() + LOAD_SECONDS
        self._connect_all(state, champions)
        while await self._loads.wait(deadline - time.monotonic()):
            self._connect_all(state, champions)

    def stop(self) -> None:
        """Give up the challengers that are being loaded."""
        self._loads.stop()

    def _connect_all(self, state: ShelfState, champions: Mapping[str, Predictor]) -> None:
        for name in self._rules.keys() | self._traffic.keys():
            champion = champions.get(name)
            entry = self._find_entry(name, state, champion)
            try:
                self._connect(name, champion, entry)
            except TidemillError as error:
                self._load_failed(name, entry, error)

    async def _read_rules(self) -> None:
        try:
            rules = await asyncio.to_thread(self._watch.poll)
        except BundleError as error:
            if self._last_error != str(error):
                log.error("keeping the previous traffic rules: %s", error)
            self._last_error = str(error)
            return
        if rules is not None:
            self._rules, self._last_error = rules, ""

    def _find_entry(
        self, name: str, state: ShelfState, champion: Predictor | None
    ) -> ShelfEntry | None:
        """The shelf entry of the challenger that the champion should have; None for none."""
        rule, entry = self._rules.get(name, OFF), state.challengers.get(name)
        if champion is None or entry is None or rule.mode == "off" or rule.share == 0:
            return None
        return None if entry.digest == champion.bundle.digest else entry

    def _connect(self, name: str, champion: Predictor | None, entry: ShelfEntry | None) -> None:
        current = self._traffic.get(name)
        if entry is None or champion is None:
            self._loads.cancel(name)
            self._drop(name, champion)
            return
        rule = self._rules[name]
        if current is None or current.challenger.bundle.digest != entry.digest:
            if time.monotonic() < self._retry_at.get((name, entry.digest), 0.0):
                return
            loaded = self._loads.take(name, entry)
            if loaded is None:
                return
            challenger = loaded
        elif current.rule == rule:
            champion.traffic_split = current  # the champion may be new
            return
        else:
            challenger = current.challenger
        self._drop(name, champion)
        self._traffic[name] = ChallengerTraffic(challenger, rule, self._batch_commit, self._metrics)
        champion.traffic_split = self._traffic[name]
        log.info(
            "%s: version %s is the challenger (%s, share %g)",
            name,
            entry.version,
            rule.mode,
            rule.share,
        )

    def _drop(self, name: str, champion: Predictor | None) -> None:
        removed = self._traffic.pop(name, None)
        if champion is not None:
            champion.traffic_split = None
        if removed is not None:
            removed.close()
            log.info("%s: removed the challenger", name)

    def _load_failed(self, name: str, entry: ShelfEntry | None, error: TidemillError) -> None:
        if entry is not None:
            self._retry_at[name, entry.digest] = time.monotonic() + RETRY_SECONDS
        self._metrics.counter("tidemill_model_refusals_total", model=name).add()
        log.error("the challenger of %s cannot be loaded: %s", name, error)
