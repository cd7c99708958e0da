"""Sets challengers beside the champions, as the shelf's state and its traffic rules say."""

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
from tidemill.serving.telemetry.metrics import Metrics

log = logging.getLogger(__name__)
RETRY_SECONDS = 5.0
Load = Callable[[str, ShelfEntry], ChallengerPredictor]


class Challengers:
    """The challengers in memory, by model name.

    A rule or a state that cannot be read, and a challenger that cannot be loaded, change nothing
    for the champions: it is logged and tried again.

    Args:
        load: Makes a challenger of a placed bundle; runs in a thread, raises TidemillError.
        watch: Gives the rules when they changed.
    """

    def __init__(
        self,
        load: Load,
        watch: FileWatch[dict[str, TrafficRule]],
        batch_commit: BatchCommit,
        metrics: Metrics,
    ) -> None:
        self._load = load
        self._watch = watch
        self._batch_commit = batch_commit
        self._metrics = metrics
        self._rules: Mapping[str, TrafficRule] = {}
        self._beside: dict[str, ChallengerTraffic] = {}
        self._retry: dict[tuple[str, str], float] = {}
        self._trouble = ""

    async def follow(self, state: ShelfState, champions: Mapping[str, Predictor]) -> None:
        """Bring every champion's companion up to date; cheap when nothing changed."""
        await self._read()
        for name in self._rules.keys() | self._beside.keys():
            champion = champions.get(name)
            wanted = self._wanted(name, state, champion)
            try:
                await self._set(name, champion, wanted)
            except TidemillError as error:
                self._refused(name, wanted, error)

    async def _read(self) -> None:
        try:
            rules = await asyncio.to_thread(self._watch.poll)
        except BundleError as error:
            if self._trouble != str(error):
                log.error("the traffic rules stay as they were: %s", error)
            self._trouble = str(error)
            return
        if rules is not None:
            self._rules, self._trouble = rules, ""

    def _wanted(
        self, name: str, state: ShelfState, champion: Predictor | None
    ) -> ShelfEntry | None:
        """The challenger that should stand beside the champion; None for none."""
        rule, placed = self._rules.get(name, OFF), state.challengers.get(name)
        if champion is None or placed is None or rule.mode == "off" or rule.share == 0:
            return None
        return None if placed.digest == champion.bundle.digest else placed

    async def _set(self, name: str, champion: Predictor | None, wanted: ShelfEntry | None) -> None:
        found = self._beside.get(name)
        if wanted is None or champion is None:
            self._drop(name, champion)
            return
        rule = self._rules[name]
        if found is None or found.challenger.bundle.digest != wanted.digest:
            if time.monotonic() < self._retry.get((name, wanted.digest), 0.0):
                return
            challenger = await asyncio.to_thread(self._load, name, wanted)
        elif found.rule == rule:
            champion.traffic_split = found  # a new champion has none yet
            return
        else:
            challenger = found.challenger
        self._drop(name, champion)
        self._beside[name] = ChallengerTraffic(challenger, rule, self._batch_commit, self._metrics)
        champion.traffic_split = self._beside[name]
        log.info("%s version %s: %s of %g", name, wanted.version, rule.mode, rule.share)

    def _drop(self, name: str, champion: Predictor | None) -> None:
        found = self._beside.pop(name, None)
        if champion is not None:
            champion.traffic_split = None
        if found is not None:
            found.close()
            log.info("%s: no challenger is asked any more", name)

    def _refused(self, name: str, wanted: ShelfEntry | None, error: TidemillError) -> None:
        if wanted is not None:
            self._retry[name, wanted.digest] = time.monotonic() + RETRY_SECONDS
        self._metrics.counter("tidemill_model_refusals_total", model=name).add()
        log.error("the challenger of %s stays away: %s", name, error)
